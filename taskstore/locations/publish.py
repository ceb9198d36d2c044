"""Publish a folder, or a file, whole or not at all; one writer at a time.

It is written as `.NAME.partial` beside its target and renamed at the end. Whatever ends the
process, the target is as it was, and the next command that writes it removes what was left. An
existing folder is exchanged in one step where the system can (Linux renameat2), or is for a moment
`.NAME.replaced`; `recover` puts it back. One that cannot be renamed is filled in place (`mounts`).
"""

from __future__ import annotations

import ctypes
import errno
import os
import shlex
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import NoReturn

from taskstore.errors import OutputError, TargetExists
from taskstore.locations import dry, locks, mounts, ownership, transfer
from taskstore.locations.base import PathLike
from taskstore.locations.files import absolute
from taskstore.locations.os_errors import clear
from taskstore.locations.scratch import sweep

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2
_NO_RENAME = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EXDEV)
_MOMENT = 5.0  # seconds, far more than a writer needs between two renames
Foreign = Callable[[Path], Sequence[str]]  # of a folder: what taskstore did not write in it


def everything(folder: Path) -> Sequence[str]:
    """Find all files of a folder foreign."""
    return ownership.foreign(folder, {})


@contextmanager
def alone(target: Path) -> Iterator[None]:
    """Be the only writer of `target`, after what killed ones left is put back or removed.

    The block may ask for it again. Raises OutputError, which names the other writer.
    """
    target = _named(target)
    if dry.on():
        yield
        return
    with ExitStack() as stack:
        with cleared(target):
            if not target.is_dir():
                target.parent.mkdir(parents=True, exist_ok=True)
            new = stack.enter_context(locks.hold(target))
        if new:
            mend(target)
            sweep(target, target.parent)
        yield


@contextmanager
def folder(
    target: Path, *, overwrite: bool = False, foreign: Foreign = everything
) -> Iterator[Path]:
    """Yield an empty folder that becomes `target` when the block ends without an exception.

    `overwrite` may replace an existing folder in which `foreign` finds nothing: no file that
    taskstore did not write. Raises TargetExists or OutputError; a full disk or a missing permission
    becomes an OutputError.
    """
    target = absolute(target)
    check_target(target, overwrite=overwrite, foreign=foreign)
    dry.stop()
    with alone(target):
        check_target(target, overwrite=overwrite, foreign=foreign)
        with making(target) as partial:
            partial.mkdir()
            _check_renames(partial)
            yield partial
            sync_all(partial)
            check_target(target, overwrite=overwrite, foreign=foreign)
            _publish(partial, target)


def check_target(target: Path, *, overwrite: bool, foreign: Foreign = everything) -> None:
    """Raise unless `target` is free or may be replaced; nothing is touched."""
    recover(_named(target))
    if not os.path.lexists(target):
        return
    folder = target.is_dir() and not target.is_symlink()
    with cleared(target):
        if folder and not mounts.entries(target):
            return
    if not overwrite:
        raise TargetExists(target)
    if not folder:
        _not_ours(target)
    with cleared(target):
        found = foreign(target)
    if found:
        _not_ours(target, found)


@contextmanager
def file(
    target: Path, *, overwrite: bool = False, ours: Callable[[Path], bool] = lambda _: False
) -> Iterator[Path]:
    """Yield an empty file that becomes `target`; see `folder`."""
    target = absolute(target)
    check_file(target, overwrite=overwrite, ours=ours)
    dry.stop()
    with alone(target):
        check_file(target, overwrite=overwrite, ours=ours)
        with making(target) as partial, open(partial, "xb") as made:
            yield partial
            os.fsync(made.fileno())
            check_file(target, overwrite=overwrite, ours=ours)
            os.rename(partial, target)
            mounts.sync(target.parent)


def check_file(
    target: Path, *, overwrite: bool, ours: Callable[[Path], bool] = lambda _: False
) -> None:
    """Check a file as `check_target` checks a folder."""
    if not os.path.lexists(target):
        return
    if mounts.is_mount(target):
        raise OutputError(f"{target} is a mount point and cannot be replaced; name another file")
    if not overwrite:
        raise TargetExists(target)
    if target.is_symlink() or not target.is_file() or not ours(target):
        _not_ours(target)


def _not_ours(target: Path, found: Sequence[str] = ()) -> NoReturn:
    if not found:
        raise OutputError(
            f"{target} is not something that taskstore wrote, and is never deleted: remove it "
            "yourself or give another path"
        )
    more = f" and {len(found) - 3} more" if len(found) > 3 else ""
    raise OutputError(
        f"{target} holds {', '.join(map(repr, found[:3]))}{more}: not something that "
        "taskstore wrote, or changed since, and never deleted; move it away, or remove the folder "
        "yourself"
    )


def check_space(folder: Path, needed: int) -> None:
    """Raise OutputError where the disk of `folder` has less than `needed` bytes free."""
    dry.note(needed)
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OutputError(
            f"no space left on the disk of {folder}: {needed >> 20} MiB are needed, "
            f"{free >> 20} MiB are free"
        )


def recover(path: PathLike) -> None:
    """Put back a folder that was being replaced when its writer was killed, if `path` is in it.

    Costs one look at the disk where it is there. Raises OutputError, which says where it lies.
    """
    target = absolute(path)
    while target.name:
        target = Path(os.path.realpath(target)) if os.path.islink(target) else target
        if os.path.lexists(target):
            break
        aside = mounts.beside(target, "replaced")
        if os.path.isdir(aside) and not os.path.islink(aside):
            try:
                with locks.waiting(_MOMENT), locks.hold(target):
                    _put_back(target)
            except OSError as error:
                raise OutputError(
                    f"{target} was being replaced when its writer was killed; it lies in {aside} "
                    f"and cannot be put back from here ({error.strerror}): "
                    f"{shlex.join(['mv', str(aside), str(target)])}"
                ) from None
            return
        target = target.parent
    if mounts.between(target):
        with cleared(target), locks.waiting(_MOMENT), locks.hold(target):
            mounts.go_on(target)


def _put_back(target: Path) -> None:
    if mounts.between(target):
        mounts.go_on(target)
    if mounts.is_fixed(target):
        return
    aside = mounts.beside(target, "replaced")
    if os.path.isdir(aside) and not os.path.islink(aside) and not os.path.lexists(target):
        os.rename(aside, target)
        mounts.sync(target.parent)


def mend(target: Path) -> None:
    """Put back or remove what is left of a write; for the holder of the target's lock."""
    with suppress(OSError):
        _put_back(target)
    with suppress(OSError):
        transfer.settle(mounts.beside(target, "partial"), target)
    leavings = ["partial"] + (["replaced"] if os.path.lexists(target) else [])
    for path in (mounts.beside(target, what) for what in leavings):
        with suppress(OSError):
            path.unlink()
        shutil.rmtree(path, ignore_errors=True)


def _named(target: Path) -> Path:
    named = absolute(target)
    if not named.name or {"hf:", "s3:", "gs:", "az:"} & {*named.parts}:
        raise OutputError(f"{target} cannot be a target; name a new folder of this machine")
    return named


def _check_renames(partial: Path) -> None:
    """Find out before the work whether folders can be renamed there."""
    one, other = partial / "one", partial / "other"
    try:
        one.mkdir()
        os.rename(one, other)
        other.rmdir()
    except OSError as error:
        if error.errno not in _NO_RENAME:
            raise
        raise OutputError(
            f"the file system of {partial.parent} cannot rename folders ({error.strerror}); write "
            "elsewhere and copy the folder there"
        ) from None


@contextmanager
def cleared(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise clear(error, path) from error


@contextmanager
def making(target: Path) -> Iterator[Path]:
    """Yield where a target's partial is made; what is there at the end is removed.

    For the holder of the target's lock. Raises OutputError where this very caller is writing it.
    """
    partial = mounts.beside(target, "partial")
    if os.path.lexists(partial):
        raise locks.busy(target)
    try:
        with cleared(partial):
            yield partial
    finally:
        mend(target)


def sync_all(root: Path) -> None:
    """Flush every file and folder below `root`."""
    for path in (*root.rglob("*"), root):
        fd = os.open(path, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def _publish(partial: Path, target: Path) -> None:
    """Give a folder its name; what had it becomes the partial folder."""
    if mounts.is_fixed(target):
        mounts.publish(target)
    elif not target.exists():
        os.rename(partial, target)
    elif not _exchange(partial, target):
        aside = mounts.beside(target, "replaced")
        os.rename(target, aside)
        os.rename(partial, target)
        mounts.sync(target.parent)
        os.rename(aside, partial)  # no longer something to put back
    mounts.sync(target.parent)


def _exchange(one: Path, other: Path) -> bool:
    """Swap two folders atomically; False where the system has no such call."""
    try:
        call = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    a, b = (ctypes.c_char_p(os.fsencode(path)) for path in (one, other))
    return bool(call(_AT_FDCWD, a, _AT_FDCWD, b, ctypes.c_uint(_RENAME_EXCHANGE)) == 0)
