"""Files and folders that appear whole or not at all.

The work happens under a temporary name in the same folder, so that the last step is one rename on one file
system. What was written is on the disk before that, where the system can say so: a crash leaves the old or the new.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

_LETTERS = 8
# What systems answer that cannot sync a file or a folder; any other error is one of writing.
_NO_SYNC = (
    errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EBADF, errno.EACCES, errno.EPERM, errno.EISDIR, errno.EROFS,
)  # fmt: skip


@contextmanager
def atomic_file(path: str | os.PathLike) -> Iterator[Path]:
    """Give a temporary path with the suffix of `path`; move it to `path` when the block ends well.

    The parent folder is created. After an error `path` is as it was before, and nothing else is left behind.
    """
    with atomic_files([path]) as (temporary,):
        yield temporary


@contextmanager
def atomic_files(paths: Sequence[str | os.PathLike]) -> Iterator[list[Path]]:
    """:func:`atomic_file` for several files, which take their places in order, or all stay as they were."""
    paths = [Path(path) for path in paths]
    for path in paths:
        check_name(path)
        if path.is_dir():
            raise IsADirectoryError(f"{path} is a folder, expected the name of a file to write")
    temporary: list[Path] = []
    try:
        for path in paths:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.append(_new_file(path))
        rights = [stat.S_IMODE(file.stat().st_mode) for file in temporary]
        yield list(temporary)
        for file, right in zip(temporary, rights, strict=True):
            file.chmod(right)  # what wrote it may have put another file there
            _sync(file)
        _replace(temporary, paths)
    finally:
        for file in temporary:
            file.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: str | os.PathLike) -> Iterator[Path]:
    """Give an empty temporary folder; move it to `path` when the block ends well.

    A folder that already stands at `path` is replaced: callers check first that nothing of value is in it.
    """
    path = Path(path)
    check_name(path)
    if path.exists() and not path.is_dir():
        raise NotADirectoryError(f"{path} is a file, expected the name of a folder to write")
    path.parent.mkdir(parents=True, exist_ok=True)
    new, old = _new_folder(path), None
    try:
        yield new
        for file in [*new.rglob("*"), new]:
            _sync(file)
        if path.exists():
            old = _new_folder(path)
            os.replace(path, old)
        try:
            os.replace(new, path)
        except BaseException:
            if old is not None:
                os.replace(old, path)
            raise
        _sync(path.parent)
    finally:
        shutil.rmtree(new, ignore_errors=True)
        if old is not None and path.exists():
            shutil.rmtree(old, ignore_errors=True)


def check_name(path: Path) -> None:
    """Raise OSError where the system takes no such name, before anything is computed for it."""
    try:
        path.stat()
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            words = f"{path.name[:40]}...: the name has {len(os.fsencode(path.name))} bytes, expected a shorter one"
            raise OSError(errno.ENAMETOOLONG, words) from None


def _hidden(path: Path) -> Path:
    """A new name beside `path` with its suffix: no longer than its own, unless that is shorter than four letters."""
    letters = min(_LETTERS, max(3, len(os.fsencode(path.stem)) - 1))
    return path.with_name(f".{secrets.token_hex(_LETTERS)[:letters]}{path.suffix}")


def _new_file(path: Path) -> Path:
    """An empty file that nobody else has, with the rights that new files get here."""
    while True:
        with suppress(FileExistsError):
            file = _hidden(path)
            os.close(os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
            return file


def _new_folder(path: Path) -> Path:
    while True:
        with suppress(FileExistsError):
            folder = _hidden(path)
            folder.mkdir()
            return folder


def _replace(temporary: Sequence[Path], paths: Sequence[Path]) -> None:
    """Move files to their places; after an error what stood there stands there again."""
    kept: list[Path | None] = []
    done = 0
    try:
        for file, path in zip(temporary, paths, strict=True):
            # After the last there is nothing that could fail.
            kept.append(_kept(path) if done < len(paths) - 1 else None)
            os.replace(file, path)
            done += 1
    except BaseException:
        for i, old in enumerate(kept) if done < len(paths) else ():
            if old is not None and i == done and paths[i].exists():
                old.unlink()  # a link, and its file never left
            elif old is not None:
                os.replace(old, paths[i])
            elif i < done:
                paths[i].unlink(missing_ok=True)
        raise
    for old in kept:
        if old is not None:
            old.unlink()
    for folder in {path.parent for path in paths}:
        _sync(folder)


def _kept(path: Path) -> Path | None:
    """Another name of what stands at `path`, the only one where the system has no links; None where nothing does."""
    while path.exists():
        old = _hidden(path)
        try:
            os.link(path, old)
        except FileExistsError:
            continue
        except OSError:
            os.replace(path, old)
        return old
    return None


def _sync(path: Path) -> None:
    """Wait until the disk has a file, or the names in a folder, where this system can."""
    try:
        handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise
