"""A reader's lease: a shared lock on the manifest that it read, for as long as it reads the store.

A writer that puts another manifest in its place keeps the old one under a second name, and finds
out by its lock whether somebody still reads what it lists. Readers wait for nobody.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from contextlib import suppress
from pathlib import Path

from taskstore.locations.files import TRIES, open_regular, read_open

_MOMENT, _STEP = 1.0, 0.002  # seconds; a writer that looks holds the lock for microseconds
_NO_FLOCK = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL)


class Lease:
    """Says that somebody reads a manifest and its files, until it is released or collected."""

    _close = staticmethod(os.close)  # at the interpreter's exit the module's names may be gone

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def release(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            self._close(fd)

    def __del__(self) -> None:
        self.release()


def take(path: Path, limit: int, within: Path) -> tuple[Lease, bytes]:
    """Read a file of at most `limit` bytes and hold a lease on it; raises OSError.

    Where the file system has no locks, or a lock is refused, the lease says nothing.
    """
    for _ in range(TRIES):
        lease = Lease(fd := open_regular(path, within))
        _share(fd)
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(fd), os.stat(path)):  # not replaced before it was locked
                return lease, read_open(os.dup(fd), path, limit)
    raise OSError(errno.ESTALE, "it was replaced while it was opened", str(path))


def _share(fd: int) -> None:
    until = time.monotonic() + _MOMENT
    while time.monotonic() < until:
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(_STEP)
        except OSError:
            return
        else:
            return


def is_held(path: Path) -> bool | None:
    """Tell whether somebody has a lease on a file; None: that cannot be known. Raises OSError."""
    with open(open_regular(path, path.parent), "rb", buffering=0) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError as error:
            if error.errno in _NO_FLOCK or error.errno == errno.EBADF:  # NFS wants to write
                return None
            raise
    return False
