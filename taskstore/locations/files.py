"""Writing: whole, at an offset, and towards the disk while the next block is still being made."""

from __future__ import annotations

import os
from concurrent.futures import Future, ThreadPoolExecutor

from taskstore.errors import FormatError

STEP = 64 << 20


def write_all(fd: int, data: bytes | memoryview) -> None:
    view = memoryview(data).cast("B")
    while view:
        view = view[os.write(fd, view) :]


def write_all_at(fd: int, data: bytes | memoryview, offset: int) -> None:
    view = memoryview(data).cast("B")
    while view:
        done = os.pwrite(fd, view, offset)
        view, offset = view[done:], offset + done


class Flusher:
    """Flushes a growing file in a thread, so that the fsync at the end finds little to do.

    Without it the disk idles while blocks are coded and the processor while the disk flushes.
    """

    def __init__(self, fd: int) -> None:
        self._fd, self._flushed = fd, 0
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="taskstore-flush")
        self._running: Future[None] | None = None

    def written_to(self, end: int) -> None:
        """The file has grown to `end`; raises the error of an earlier flush."""
        if end - self._flushed < STEP or (self._running and not self._running.done()):
            return
        if self._running:
            self._running.result()
        self._running = self._pool.submit(_flush, self._fd)
        self._flushed = end

    def close(self) -> None:
        """Wait for the flush that runs, before the file is closed; raises its error.

        The kernel reports a failed write once per open file: to this flush or to the fsync after
        it, so neither result may be dropped.
        """
        self._pool.shutdown()
        if self._running:
            self._running.result()


_flush = getattr(os, "fdatasync", os.fsync)


def read_exactly(fd: int, begin: int, count: int, label: str) -> bytes:
    """`count` bytes at `begin`; one call reads at most 2 GiB, so large ones are joined."""
    raw = os.pread(fd, count, begin)
    if len(raw) == count:
        return raw
    parts, got = [raw], len(raw)
    while raw and got < count:
        raw = os.pread(fd, count - got, begin + got)
        parts.append(raw)
        got += len(raw)
    if got != count:
        raise FormatError(f"{label} became shorter while it was read")
    return b"".join(parts)
