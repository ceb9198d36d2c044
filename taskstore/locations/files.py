"""Use local folders as a location; write at an offset, and flush while blocks are made."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from taskstore.errors import BadName, ChangedMeanwhile, FormatError
from taskstore.locations.base import PathLike

STEP = 64 << 20
COPY_BLOCK = 1 << 20
PARTIAL = ".partial"  # a file that is being written, or was when its writer died


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
        """Note that the file has grown to `end`; raises the error of an earlier flush."""
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


def open_regular(path: PathLike) -> int:
    """Open a regular file for reading and return its descriptor, which the caller closes.

    A pipe, a socket or a device is refused at once, and never waited for. Raises OSError.
    """
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "it is not a regular file", str(path))
    return fd


def read_regular(path: PathLike, limit: int) -> bytes:
    """Read a whole regular file of at most `limit` bytes; its size is looked at first.

    Raises OSError, also where it is larger, or changes its size while it is read.
    """
    with open(open_regular(path), "rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        if size > limit:
            raise OSError(errno.EFBIG, f"it is larger than {_shown(limit)}", str(path))
        parts, left = [], size + 1  # one more, to see that it ends
        while left and (part := file.read(left)):
            parts.append(part)
            left -= len(part)
    if left != 1:
        raise OSError(errno.EIO, "it changed while it was read", str(path))
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _shown(size: int) -> str:
    units = {1 << 20: "MB", 1 << 10: "KB"}
    return next(
        (f"{size // n} {unit}" for n, unit in units.items() if not size % n), f"{size} bytes"
    )


def copy_regular(source: PathLike, target: PathLike) -> None:
    """Copy the bytes of a regular file, no more than it had when it was opened; raises OSError."""
    with open(open_regular(source), "rb", buffering=0) as file, open(target, "wb") as out:
        left = os.fstat(file.fileno()).st_size
        while left and (block := file.read(min(left, COPY_BLOCK))):
            out.write(block)
            left -= len(block)
    if left:
        raise OSError(errno.EIO, "it became shorter while it was copied", str(source))


class LocalFile:
    """A regular file, open for reading."""

    def __init__(self, path: PathLike) -> None:
        """Open a file; raises OSError where there is none that can be read."""
        self.path = Path(path)
        self.fd = open_regular(path)
        self.size = os.fstat(self.fd).st_size

    def read(self, begin: int, count: int) -> bytes:
        raw = os.pread(self.fd, count, begin)
        if len(raw) == count:
            return raw
        parts, got = [raw], len(raw)  # one call reads at most 2 GiB
        while raw and got < count:
            raw = os.pread(self.fd, count - got, begin + got)
            parts.append(raw)
            got += len(raw)
        if got != count:
            raise FormatError(f"{self.path} became shorter while it was read")
        return b"".join(parts)

    def close(self) -> None:
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)


class LocalFolder:
    """A folder on this machine."""

    def __init__(self, root: PathLike) -> None:
        self._root = Path(root)

    def _path(self, name: str) -> Path:
        if any(part in ("", ".", "..") for part in name.split("/")) or "\\" in name:
            raise BadName("name of a file", name, "leaves its location")
        return self._root / name

    def names(self) -> Iterator[str]:
        every = (path for path in self._root.rglob("*") if path.is_file())
        paths = (path for path in every if not path.match(f".*{PARTIAL}"))
        yield from sorted(path.relative_to(self._root).as_posix() for path in paths)

    def open(self, name: str) -> LocalFile:
        return LocalFile(self._path(name))

    def put(self, name: str, data: bytes) -> None:
        path = self._path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{os.urandom(8).hex()}{PARTIAL}")
        fd = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        try:
            write_all(fd, data)
            os.fsync(fd)
            os.replace(partial, path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        finally:
            os.close(fd)

    def put_if_unchanged(self, name: str, data: bytes, seen: bytes | None) -> None:
        path = self._path(name)
        self._root.mkdir(parents=True, exist_ok=True)
        fd = os.open(self._root, os.O_RDONLY)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)  # other writers of this folder wait
            if not _holds(path, seen):
                raise ChangedMeanwhile(f"{path} was changed by another writer; read it again")
            self.put(name, data)
        finally:
            os.close(fd)

    def delete(self, name: str) -> None:
        with suppress(NotADirectoryError):
            self._path(name).unlink(missing_ok=True)


def _holds(path: Path, seen: bytes | None) -> bool:
    """Tell whether a file has this content; None: whether there is none."""
    if seen is None or not path.exists():
        return seen is None and not path.exists()
    return path.stat().st_size == len(seen) and read_regular(path, len(seen)) == seen
