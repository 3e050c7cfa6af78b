"""Files and folders that appear whole or not at all.

The work happens in a hidden folder beside them, so that the last step is one rename on one file system. What a killed
process leaves of it is removed by the next one that writes to the same place.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows, where a lock is no use: nobody can remove what another one has open
    fcntl = None

PREFIX = ".unet-motion-"
"""What the names of the hidden folders start with."""
_UNLOCKED, _UNKNOWN = 60.0, 86400.0
"""How many seconds old a folder must be to count as left behind: with locks, and where there are none."""


@contextmanager
def atomic_file(path: str | os.PathLike) -> Iterator[Path]:
    """Give a temporary path of the same name; move it to `path` when the block ends well.

    The parent folder is created. After an error `path` is as it was before, and nothing else is left behind.

    Raises:
        OSError: `path` is a folder, its name is too long, or it cannot be written there.
    """
    path = Path(path)
    _check_target(path)
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, "is a folder, expected the name of a file to write", str(path))
    with _workplace(path.parent) as folder:
        part = folder / path.name
        yield part
        os.chmod(part, 0o666 & ~_umask())
        _sync(part)
        os.replace(part, path)
        _sync(path.parent)


@contextmanager
def atomic_folder(path: str | os.PathLike) -> Iterator[Path]:
    """Give an empty temporary folder; move it to `path` when the block ends well.

    A folder that already stands at `path` is replaced: callers check first that nothing of value is in it.

    Raises:
        OSError: see :func:`atomic_file`.
    """
    path = Path(path)
    _check_target(path)
    if path.exists() and not path.is_dir():
        raise NotADirectoryError(f"{path} is a file, expected the name of a folder to write")
    with _workplace(path.parent) as temporary:
        try:
            new = temporary / "new"
            new.mkdir()
            yield new
            for file in new.iterdir():
                _sync(file)
            if path.exists():
                os.replace(path, temporary / "old")
            os.replace(new, path)
        except BaseException:
            if not path.exists() and (temporary / "old").exists():
                os.replace(temporary / "old", path)
            raise
        _sync(path.parent)


def _check_target(path: Path) -> None:
    """Raise the system's own error for a name that it cannot have, before any work is done."""
    with contextlib.suppress(FileNotFoundError):
        os.lstat(path)


@contextmanager
def _workplace(parent: Path) -> Iterator[Path]:
    """A hidden folder in `parent`, locked as long as this process works in it."""
    parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(parent)
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
    try:
        with _held(folder):
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Lock a folder; where the file system has no locks, its age alone tells whether somebody works in it."""
    if fcntl is None:
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _remove_leftovers(parent: Path) -> None:
    """Remove the hidden folders of processes that were killed; what cannot be removed is left."""
    now = time.time()
    with contextlib.suppress(OSError):
        for entry in os.scandir(parent):
            with contextlib.suppress(OSError):
                if entry.name.startswith(PREFIX) and entry.is_dir(follow_symlinks=False):
                    age = now - entry.stat(follow_symlinks=False).st_mtime
                    if age > _UNKNOWN or age > _UNLOCKED and _is_abandoned(entry.path):
                        shutil.rmtree(entry.path, ignore_errors=True)


def _is_abandoned(folder: str) -> bool:
    """Whether no process holds a folder's lock; unknown is no."""
    if fcntl is None:
        return False
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except OSError:
        return False
    finally:
        os.close(handle)


def _sync(path: Path) -> None:
    """Have a file or folder written to the disk, where the system can: a rename must not come before its content."""
    with contextlib.suppress(OSError):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _umask() -> int:
    """The process's umask, which not all writers respect and which can only be read by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
