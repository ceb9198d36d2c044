"""Put files of one folder into another, all of them or none, whatever ends the process.

The paths stand in a list, `moves`. One of the files is the one that counts: when it has moved, the
change is made. Who finds the list of a process that was killed takes back what moved before that
file, or, where it has moved too, moves the others.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from taskstore.locations import mounts
from taskstore.locations.files import read_regular, write_all

LIST = "moves"
COUNTS = "taskstore.json"  # what makes a folder a store
_MAX = 64 << 20  # bytes of a list


def move(source: Path, target: Path, before: Sequence[str], after: Sequence[str] = ()) -> None:
    """Move files below `source` to the same places below `target`; new names, but for the last.

    `before` and COUNTS are all moved or none; `after` follows. For the holder of the target's lock,
    who has flushed the files. Raises OSError; `settle` puts right what is left then.
    """
    paths = [*before, COUNTS, *after]
    fd = os.open(source / LIST, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    try:
        write_all(fd, "".join(f"{path}\n" for path in paths).encode())
        os.fsync(fd)
    finally:
        os.close(fd)
    mounts.sync(source)
    _go(source, target, [*before, COUNTS])
    with suppress(OSError):  # the change is made; `settle` tries once more
        _go(source, target, after)


def settle(source: Path, target: Path) -> None:
    """Take back, or finish, what a list in `source` says; nothing where there is no list."""
    try:
        paths = read_regular(source / LIST, _MAX, source).decode().splitlines()
    except (OSError, ValueError):
        return
    if not all(_is_inside(path, target) for path in paths):
        return
    if not os.path.lexists(source / COUNTS):
        _go(source, target, [path for path in paths if os.path.lexists(source / path)])
        return
    for path in paths[: paths.index(COUNTS)] if COUNTS in paths else ():
        if not os.path.lexists(source / path):
            remove(target, path)
    mounts.sync(target)


def remove(folder: Path, path: str) -> None:
    """Remove a file of a folder, and folders that are empty then; no link is followed."""
    if not _is_inside(path, folder):
        return
    with suppress(OSError):
        (folder / path).unlink()
        for above in list((folder / path).relative_to(folder).parents)[:-1]:
            (folder / above).rmdir()


def _go(source: Path, target: Path, paths: Iterable[str]) -> None:
    folders = dict[Path, None]()
    for path in paths:
        place = target / path
        place.parent.mkdir(parents=True, exist_ok=True)
        if path == COUNTS:
            _sync(target, folders)
        os.rename(source / path, place)
        folders[place.parent] = None
    _sync(target, folders)


def _sync(target: Path, folders: Iterable[Path]) -> None:
    for folder in dict.fromkeys([*folders, target / "tasks", target]):
        if folder.is_dir():
            mounts.sync(folder)


def _is_inside(path: str, folder: Path) -> bool:
    """Tell whether a path is a plain one, and no link leads it out of the folder."""
    plain = path and all(part not in ("", ".", "..") for part in path.split("/"))
    real = os.path.realpath(folder)
    above = os.path.dirname(os.path.join(real, path))
    return bool(plain) and os.path.realpath(above) == above
