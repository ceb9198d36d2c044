"""Folders for what a command needs meanwhile; the next command removes what a killed one left.

`.NAME.scratch-*` lies beside the target, or where the user says. It has a folder for the files and
a lock, which tells whether it is in use.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from taskstore.errors import OutputError
from taskstore.locations import dry, locks
from taskstore.locations.base import PathLike
from taskstore.locations.files import absolute
from taskstore.locations.os_errors import FULL, clear

_LOCK = ".lock"
_ROOM = 64 << 20  # bytes that a folder for small files has free


@contextmanager
def scratch(
    target: PathLike, place: PathLike | None = None, *, small: bool = False
) -> Iterator[Path]:
    """Yield an empty folder that is removed at the end: in `place`, else beside `target`.

    Where the folder of `target` cannot be written, and first for `small` files, it is the system's
    for temporary files. Raises OutputError where no folder can be written, or the disk is full.
    """
    target = absolute(target)
    folder, lock = _made(
        target, Path(place) if place else writable(target, small=small or dry.on())
    )
    try:
        inside = folder / "files"
        inside.mkdir()
        yield inside
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise clear(error, folder) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        lock.release()


def sweep(target: Path, place: Path) -> None:
    """Remove the folders that killed processes left for `target` in `place`."""
    with suppress(OSError), os.scandir(place) as entries:
        for entry in entries:
            if entry.name.startswith(_prefix(target)) and _own(entry):
                with suppress(OSError):
                    _remove(Path(entry.path))


def _prefix(target: Path) -> str:
    return f".{target.name[:100]}.scratch-"


def _own(entry: os.DirEntry[str]) -> bool:
    """Whether it is a folder of this user's."""
    with suppress(OSError):
        status = entry.stat(follow_symlinks=False)
        return entry.is_dir(follow_symlinks=False) and status.st_uid == os.geteuid()
    return False


def _remove(folder: Path) -> None:
    lock = locks.attempt(folder / _LOCK)
    if lock:
        shutil.rmtree(folder, ignore_errors=True)
        lock.release()


def _made(target: Path, place: Path) -> tuple[Path, locks.Lock]:
    try:
        place.mkdir(parents=True, exist_ok=True)
        sweep(target, place)
        while True:
            folder = Path(tempfile.mkdtemp(prefix=_prefix(target), dir=place))
            try:
                if lock := locks.attempt(folder / _LOCK):
                    return folder, lock
            except FileNotFoundError:  # another swept it before it was locked
                continue
            except OSError:  # a full disk
                shutil.rmtree(folder, ignore_errors=True)
                raise
    except OSError as error:
        raise clear(error, place / _prefix(target)) from error


def writable(target: Path, *, small: bool) -> Path:
    """Choose a folder for scratch, as `scratch` does without a place of the user's."""
    places = [target.parent]
    with suppress(FileNotFoundError):  # where no folder for temporary files can be written
        if os.path.isdir(common := tempfile.gettempdir()):
            places.insert(0 if small else 1, Path(common))
    for place in places:
        if _usable(place, _ROOM if small else 0):
            return place
    names = " and ".join(map(str, places))
    raise OutputError(f"no room for a folder in {names}; name one that can be written in TMPDIR")


def _usable(place: Path, room: int) -> bool:
    while not place.exists() and place != place.parent:
        place = place.parent
    with suppress(OSError):
        return os.access(place, os.W_OK | os.X_OK) and shutil.disk_usage(place).free >= room
    return False
