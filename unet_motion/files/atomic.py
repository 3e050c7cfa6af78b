"""Files and folders that appear whole or not at all.

The work happens under a temporary name in the same folder, so that the last step is one rename on one file
system.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_file(path: str | os.PathLike) -> Iterator[Path]:
    """Give a temporary path with the suffix of `path`; move it to `path` when the block ends well.

    The parent folder is created. After an error `path` is as it was before, and nothing else is left behind.
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder, expected the name of a file to write")
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    try:
        yield Path(name)
        os.chmod(name, 0o666 & ~_umask())
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


@contextmanager
def atomic_folder(path: str | os.PathLike) -> Iterator[Path]:
    """Give an empty temporary folder; move it to `path` when the block ends well.

    A folder that already stands at `path` is replaced: callers check first that nothing of value is in it.
    """
    path = Path(path)
    if path.exists() and not path.is_dir():
        raise NotADirectoryError(f"{path} is a file, expected the name of a folder to write")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    try:
        new = temporary / "new"
        new.mkdir()
        yield new
        if path.exists():
            os.replace(path, temporary / "old")
        os.replace(new, path)
    except BaseException:
        if not path.exists() and (temporary / "old").exists():
            os.replace(temporary / "old", path)
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _umask() -> int:
    """The process's umask, which mkstemp does not respect and which can only be read by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
