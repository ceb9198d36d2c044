"""One writer at a time: a lock file beside the target says who writes it. Readers take no lock.

`.NAME.lock` (`mounts.beside`) is locked with flock, which ends with its holder, however that ends:
a file that is left counts for nothing. Where a file system knows no flock, whoever makes the file
holds it until it is removed, or until its process, of this machine, has ended.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import platform
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

from taskstore.errors import OutputError
from taskstore.locations.files import read_regular
from taskstore.locations.mounts import beside

_NO_FLOCK = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)
_STEP = 0.05  # seconds between two tries
_MOMENT = 0.2  # seconds for which a reader may hold it, which puts something back
_held: ContextVar[frozenset[str]] = ContextVar("held", default=frozenset())
_patience: ContextVar[float] = ContextVar("patience", default=0.0)


@contextmanager
def waiting(seconds: float) -> Iterator[None]:
    """Let writers in the block wait so long for a target that another process writes."""
    before = _patience.set(seconds)
    try:
        yield
    finally:
        _patience.reset(before)


_log = logging.getLogger(__name__)


@contextmanager
def hold(target: Path) -> Iterator[bool]:
    """Be the only writer of `target`; yields whether it was not held by this caller already.

    Raises OutputError, which names the holder, where another has it; OSError where no file can be
    made beside the target.
    """
    place = os.path.join(os.path.realpath(target.parent), target.name)
    if place in _held.get():
        yield False
        return
    lock = _patiently(target)
    before = _held.set(_held.get() | {place})
    try:
        yield True
    finally:
        _held.reset(before)
        lock.release()


@dataclass(frozen=True)
class Lock:
    """A lock that is held until it is released, or its process ends."""

    path: Path
    fd: int

    def release(self) -> None:
        with suppress(OSError):
            self.path.unlink()
        os.close(self.fd)


def attempt(path: Path) -> Lock | None:
    """Take the lock of a file; None where somebody has it. Raises OSError."""
    for _ in range(5):
        fd, made = _opened(path)
        lock = None
        try:
            if _locked(fd, path, made=made) and _is(fd, path):
                _check_ours(fd, path)
                os.ftruncate(fd, 0)
                os.pwrite(fd, f"{os.getpid()} {platform.node()}\n".encode(), 0)
                lock = Lock(path, fd)
                return lock
        except BlockingIOError:
            return None
        except OSError:  # a full disk
            if made and _is(fd, path):
                path.unlink()
            raise
        finally:
            if lock is None:
                os.close(fd)
    return None


def busy(target: Path) -> OutputError:
    """Say who writes a target."""
    pid, host = _holder(lock_of(target))
    who = f"process {pid} of {host}" if pid else "another process"
    return OutputError(
        f"{target} is being written by another taskstore ({who}, as {lock_of(target)} says); try "
        "again when it has ended, or with `taskstore.locations.locks.waiting(SECONDS)`"
    )


def lock_of(target: Path) -> Path:
    return beside(target, "lock")


def _patiently(target: Path) -> Lock:
    until, waiting = time.monotonic() + max(_patience.get(), _MOMENT), False
    while (lock := attempt(lock_of(target))) is None:
        if time.monotonic() >= until:
            raise busy(target)
        if not waiting:
            _log.info("waiting for another writer of %s", target)
        waiting = True
        time.sleep(_STEP)
    return lock


def _opened(path: Path) -> tuple[int, bool]:
    """Open a lock file, and tell whether it was made for that."""
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK
    while True:
        with suppress(FileExistsError):
            return os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o666), True
        with suppress(FileNotFoundError):
            return os.open(path, flags), False
        if not path.parent.is_dir():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))


def _check_ours(fd: int, path: Path) -> None:
    """Refuse what nobody made for a lock: its content would be lost."""
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
        raise OSError(errno.EINVAL, "it is no lock of taskstore's; move it away", str(path))


def _locked(fd: int, path: Path, *, made: bool) -> bool:
    """Lock an open file; raises BlockingIOError where another has it."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in _NO_FLOCK:
            raise
        if not made:
            _take_away(path)
        return made
    return True


def _take_away(path: Path) -> None:
    """Remove a lock file whose process has ended, without flock; BlockingIOError: it has not."""
    pid, host = _holder(path)
    if pid is None or host != platform.node() or _runs(pid):
        raise BlockingIOError(errno.EWOULDBLOCK, os.strerror(errno.EWOULDBLOCK), str(path))
    aside = path.with_name(f"{path.name}.{os.getpid()}")
    with suppress(FileNotFoundError):
        os.rename(path, aside)
        if _holder(aside) != (pid, host):  # another was faster, and holds it
            with suppress(FileExistsError):
                os.link(aside, path)
        aside.unlink()


def _holder(path: Path) -> tuple[int | None, str]:
    """Return process and machine of whoever made a lock file; None where it does not say."""
    with suppress(OSError, ValueError):
        pid, host = read_regular(path, 400).decode().split()
        return int(pid), host
    return None, ""


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


def _is(fd: int, path: Path) -> bool:
    """Whether an open file is still the one of that name."""
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(fd), os.stat(path, follow_symlinks=False))
    return False
