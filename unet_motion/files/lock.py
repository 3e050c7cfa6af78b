"""A folder that one run at a time works in."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_MARK = ".in-use"
_own = threading.local()


@contextmanager
def folder_lock(folder: str | os.PathLike) -> Iterator[None]:
    """Hold a folder; the thread that holds it may do so again. One that was not there is made, and removed if empty.

    The system lets go of it when the process ends, however that ends. Where the file system has no locks, everybody
    gets it.

    Raises:
        BlockingIOError: another process, or another thread, holds it.
        OSError: the folder cannot be made.
    """
    folder = Path(os.path.realpath(folder))
    new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    held = _own.__dict__.setdefault("held", {})
    handle = None if held.get(folder) else _take(folder)
    held[folder] = held.get(folder, 0) + 1
    try:
        yield
    finally:
        held[folder] -= 1
        if handle is not None:
            os.close(handle)
        if new:
            with contextlib.suppress(OSError):  # something is in it
                folder.rmdir()


def _take(folder: Path) -> int:
    """A handle that holds the folder until it is closed."""
    try:
        if fcntl is None:  # the system deletes the file when its handle is closed
            return os.open(folder / _MARK, os.O_CREAT | os.O_EXCL | cast(Any, os).O_TEMPORARY)
        handle = os.open(folder, os.O_RDONLY)
    except FileExistsError:
        raise _in_use(folder) from None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise _in_use(folder) from None
    except OSError:
        pass
    return handle


def _in_use(folder: Path) -> BlockingIOError:
    return BlockingIOError(
        errno.EAGAIN,
        "another run works in this folder, expected one at a time: end it, or write to another folder",
        str(folder),
    )
