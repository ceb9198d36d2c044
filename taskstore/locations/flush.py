"""Send a growing file to the disk while it is written, so that its fsync finds little to do.

Without that the disk idles while blocks are coded and the processor while the disk flushes, and
pages that wait for the disk fill the memory. Linux is told of each step (sync_file_range); other
systems flush at the end.
"""

from __future__ import annotations

import ctypes
import errno
import os

STEP = 8 << 20  # bytes that are sent at a time
AHEAD = 64 << 20  # that are on their way at most
_WAIT_BEFORE, _WRITE, _WAIT_AFTER = 1, 2, 4
_NOT_HERE = (errno.ENOSYS, errno.EINVAL, errno.ESPIPE)  # says a system, or a kind of file


class Flusher:
    """Sends a file to the disk, step by step, and waits where too much is on its way."""

    def __init__(self, fd: int) -> None:
        self._fd, self._sent, self._there = fd, 0, 0

    def written_to(self, end: int) -> None:
        """Note that the file has grown to `end`; raises OSError where the disk refuses a step.

        The kernel reports a failed write once per open file: to this call or to the fsync after it.
        """
        if end - self._sent < STEP:
            return
        _flush(self._fd, self._sent, end, _WRITE)
        self._sent = end
        if end - AHEAD > self._there:
            _flush(self._fd, self._there, end - AHEAD, _WAIT_BEFORE | _WRITE | _WAIT_AFTER)
            self._there = end - AHEAD


def _flush(fd: int, begin: int, end: int, how: int) -> None:
    if _CALL is None:
        return
    if _CALL(fd, ctypes.c_int64(begin), ctypes.c_int64(end - begin), ctypes.c_uint(how)):
        code = ctypes.get_errno()
        if code not in _NOT_HERE:
            raise OSError(code, os.strerror(code))


_CALL = getattr(ctypes.CDLL(None, use_errno=True), "sync_file_range", None)
