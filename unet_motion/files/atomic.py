"""Files and folders that appear whole or not at all.

The work happens in a hidden folder beside them, so that the last step is one rename on one file system; what was
written is on the disk before that, where the system can say so. What a killed process leaves of it is removed by the
next one that writes to the same place.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows, where a lock is no use: nobody can remove what another one has open
    fcntl = None  # type: ignore[assignment]

PREFIX = ".unet-motion-"
"""What the names of the hidden folders start with."""
_UNLOCKED, _UNKNOWN = 60.0, 86400.0
"""How many seconds old a folder must be to count as left behind: with locks, and where there are none."""
# What systems answer that cannot sync a file or a folder; any other error is one of writing.
_NO_SYNC = (
    errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EBADF, errno.EACCES, errno.EPERM, errno.EISDIR, errno.EROFS,
)  # fmt: skip


@contextmanager
def atomic_file(path: str | os.PathLike) -> Iterator[Path]:
    """Give a temporary path of the same name; move it to `path` when the block ends well.

    The parent folder is created. After an error `path` is as it was before, and nothing else is left behind. Where
    `path` is a link, what it leads to is written.

    Raises:
        OSError: `path` is a folder, a device or a pipe, its name is too long, or it cannot be written there.
    """
    with atomic_files([path]) as (part,):
        yield part


@contextmanager
def atomic_files(paths: Sequence[str | os.PathLike]) -> Iterator[list[Path]]:
    """:func:`atomic_file` for several files, which take their places in order, or all stay as they were."""
    names = [Path(path).name for path in paths]  # not a link's aim: writers go by the ending that was asked for
    targets = [_checked(Path(path)) for path in paths]
    with ExitStack() as stack:
        parents = dict.fromkeys(target.parent for target in targets)
        folders = {parent: stack.enter_context(_workplace(parent)) for parent in parents}
        parts = [folders[path.parent] / name for path, name in zip(targets, names, strict=True)]
        rights = [_new_file(part) for part in parts]
        yield list(parts)
        for part, right in zip(parts, rights, strict=True):
            part.chmod(right)  # what wrote it may have put another file there
            _sync(part)
        _replace(parts, targets)
        for parent in folders:
            _sync(parent)


@contextmanager
def atomic_folder(path: str | os.PathLike) -> Iterator[Path]:
    """Give an empty temporary folder; move it to `path` when the block ends well.

    A folder that already stands at `path` is replaced: callers check first that nothing of value is in it.

    Raises:
        OSError: see :func:`atomic_file`.
    """
    path = Path(path)
    check_name(path)
    if path.exists() and not path.is_dir():
        raise NotADirectoryError(f"{path} is a file, expected the name of a folder to write")
    with _workplace(path.parent) as temporary:
        new, old = temporary / "new", temporary / "old"
        new.mkdir()
        yield new
        for file in [*new.rglob("*"), new]:
            _sync(file)
        if path.exists():
            os.replace(path, old)
        try:
            os.replace(new, path)
        except BaseException:
            if old.exists():
                _rescue(old, path)
            raise
        _sync(path.parent)


def check_place(path: str | os.PathLike) -> None:
    """Raise the OSError that writing a file there would end with, as far as that shows beforehand."""
    with _workplace(_checked(Path(path)).parent):
        pass


def _checked(path: Path) -> Path:
    """The file that a path names, behind links; raises OSError where no file can be put there."""
    check_name(path)
    with contextlib.suppress(FileNotFoundError):
        mode = os.stat(path).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, "is a folder, expected the name of a file to write", str(path))
        if not stat.S_ISREG(mode):
            # Moved over a device, a file would take its place for every program.
            raise OSError(errno.EINVAL, "is a device or a pipe, expected the name of a file to write", str(path))
    return Path(os.path.realpath(path)) if path.is_symlink() else path


def check_name(path: Path) -> None:
    """Raise the system's own error for a name that it cannot have, before any work is done for it."""
    with contextlib.suppress(FileNotFoundError):
        os.lstat(path)


def _new_file(part: Path) -> int:
    """Make a file with the rights that any new file gets here, which not all writers respect; they are given."""
    os.close(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    return stat.S_IMODE(part.stat().st_mode)


def _replace(parts: Sequence[Path], paths: Sequence[Path]) -> None:
    """Move files to their places; after an error what stood there stands there again."""
    kept: list[Path | None] = []
    done = 0
    try:
        for part, path in zip(parts, paths, strict=True):
            # After the last there is nothing that could fail.
            kept.append(_kept(path, part.parent / f"old-{done}") if done < len(paths) - 1 else None)
            os.replace(part, path)
            done += 1
    except BaseException:
        for i, old in enumerate(kept) if done < len(paths) else ():
            if old is not None and not (i == done and paths[i].exists()):
                _rescue(old, paths[i])
            elif old is None and i < done:
                paths[i].unlink(missing_ok=True)
        raise


def _kept(path: Path, old: Path) -> Path | None:
    """Another name of what stands at `path`, the only one where the system has no links; None where nothing does."""
    if not path.exists():
        return None
    try:
        os.link(path, old)
    except OSError:
        os.replace(path, old)
    return old


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


def _rescue(old: Path, path: Path) -> None:
    """Put back what stood at `path`; where that fails, leave it beside under another name."""
    try:
        os.replace(old, path)
    except OSError:
        os.replace(old, path.with_name(f".{old.parent.name.removeprefix(PREFIX)}{path.suffix}"))
        raise


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
