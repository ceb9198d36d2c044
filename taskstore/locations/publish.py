"""Publish a folder, or a file, whole or not at all.

It is written as `.NAME.partial` beside its target and renamed at the end. Whatever ends the
process, the target is as it was, and at most that one partial folder is left; the next run
removes it. An existing target is exchanged in one step where the system can (Linux renameat2),
so there is no moment without a store.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from taskstore.errors import OutputError, TargetExists

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


@contextmanager
def folder(
    target: Path, *, overwrite: bool = False, ours: Callable[[Path], bool] = lambda _: False
) -> Iterator[Path]:
    """Yield an empty folder that becomes `target` when the block ends without an exception.

    `ours` tells whether an existing folder is one that `overwrite` may replace. Raises
    TargetExists or OutputError; a full disk or a missing permission becomes an OutputError.
    """
    target = Path(os.path.abspath(target))
    check_target(target, overwrite=overwrite, ours=ours)
    partial = target.with_name(f".{target.name}.partial")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        lock = _take(partial)
    except OSError as error:
        raise _clear(error, partial) from error
    try:
        yield partial
        _sync(partial)
        _publish(partial, target, overwrite)
    except OSError as error:
        raise _clear(error, partial) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        os.close(lock)


def check_target(
    target: Path, *, overwrite: bool, ours: Callable[[Path], bool] = lambda _: False
) -> None:
    """Raise unless `target` is free or may be replaced; nothing is touched."""
    if not target.name:
        raise OutputError(f"{target} cannot be a target; name a new folder")
    if not target.exists() and not target.is_symlink():
        return
    if not overwrite:
        raise TargetExists(target)
    if target.is_symlink() or not target.is_dir() or (any(target.iterdir()) and not ours(target)):
        _not_ours(target)


@contextmanager
def file(
    target: Path, *, overwrite: bool = False, ours: Callable[[Path], bool] = lambda _: False
) -> Iterator[Path]:
    """Yield an empty file that becomes `target`; see `folder`."""
    target = Path(os.path.abspath(target))
    check_file(target, overwrite=overwrite, ours=ours)
    partial = target.with_name(f".{target.name}.partial")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        fd = _take_file(partial)
    except OSError as error:
        raise _clear(error, partial) from error
    try:
        yield partial
        os.fsync(fd)
        os.rename(partial, target)
    except BaseException as error:
        partial.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise _clear(error, partial) from error
        raise
    finally:
        os.close(fd)


def check_file(
    target: Path, *, overwrite: bool, ours: Callable[[Path], bool] = lambda _: False
) -> None:
    """Check a file as `check_target` checks a folder."""
    if not target.exists() and not target.is_symlink():
        return
    if not overwrite:
        raise TargetExists(target)
    if target.is_symlink() or not target.is_file() or not ours(target):
        _not_ours(target)


def _not_ours(target: Path) -> NoReturn:
    raise OutputError(
        f"{target} is not something that taskstore wrote, so --overwrite leaves it alone; "
        "remove it yourself or give another path"
    )


def check_space(folder: Path, needed: int) -> None:
    """Raise OutputError where the disk of `folder` has less than `needed` bytes free."""
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OutputError(
            f"no space left on the disk of {folder}: {needed >> 20} MiB are needed, "
            f"{free >> 20} MiB are free"
        )


def _take(partial: Path) -> int:
    """Make the partial folder anew, locked for this process; an abandoned one is removed."""
    for _ in range(3):
        if partial.exists():
            old = os.open(partial, os.O_RDONLY | os.O_DIRECTORY)
            try:
                fcntl.flock(old, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(partial)
            except BlockingIOError:
                raise OutputError(
                    f"{partial} is being written by another taskstore; wait for it to end"
                ) from None
            finally:
                os.close(old)
        try:
            partial.mkdir()
        except FileExistsError:
            continue
        lock = os.open(partial, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return lock
    raise OutputError(f"{partial} is being written by another taskstore; wait for it to end")


def _take_file(partial: Path) -> int:
    """The partial file made anew, locked for this process; an abandoned one is emptied.

    Whoever held the lock before may have renamed the file meanwhile: then it is another's target.
    """
    for _ in range(3):
        fd = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            break
        if partial.exists() and os.path.samestat(os.fstat(fd), os.stat(partial)):
            os.ftruncate(fd, 0)
            return fd
        os.close(fd)
    raise OutputError(f"{partial} is being written by another taskstore; wait for it to end")


def _sync(root: Path) -> None:
    """Flush every file and folder below `root`."""
    for path in (*root.rglob("*"), root):
        fd = os.open(path, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def _publish(partial: Path, target: Path, overwrite: bool) -> None:
    if not overwrite or not target.exists():
        os.rename(partial, target)
    elif not _exchange(partial, target):
        aside = target.with_name(f".{target.name}.replaced")
        shutil.rmtree(aside, ignore_errors=True)
        os.rename(target, aside)
        os.rename(partial, target)
        shutil.rmtree(aside, ignore_errors=True)
    fd = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _exchange(one: Path, other: Path) -> bool:
    """Swap two folders atomically; False where the system has no such call."""
    try:
        call = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    done = call(
        _AT_FDCWD,
        ctypes.c_char_p(os.fsencode(one)),
        _AT_FDCWD,
        ctypes.c_char_p(os.fsencode(other)),
        ctypes.c_uint(_RENAME_EXCHANGE),
    )
    return bool(done == 0)


def _clear(error: OSError, partial: Path) -> OutputError:
    where = partial.parent
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        free = shutil.disk_usage(where).free / 2**20
        return OutputError(
            f"no space left on the disk of {where} ({free:.0f} MiB free); nothing was kept, "
            "free some space or write elsewhere"
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return OutputError(f"{where} cannot be written: {error.strerror}")
    return OutputError(f"writing {error.filename or partial} failed: {error.strerror}")
