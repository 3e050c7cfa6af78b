"""A disk without room, played by a limit on the size of files."""

from contextlib import contextmanager

import pytest


@contextmanager
def full_disk(most_bytes: int):
    """No file of this process may grow above so many bytes in the block, which fails as a full disk does.

    Not longer than the block: what tests print may go to a file too.
    """
    resource = pytest.importorskip("resource", reason="limits of the size of files are those of POSIX")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
