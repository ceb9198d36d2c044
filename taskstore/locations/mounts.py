"""Folders that cannot be renamed: mount points, and those in a folder that cannot be written.

What a writer needs lies beside its target, as `.NAME.lock`; for such a folder it lies inside, as
`.taskstore.lock`. New content is written whole as `.taskstore.partial`. One rename, to
`.taskstore.ready`, is the moment from which it counts: what was there moves to
`.taskstore.replaced`, what is ready moves up, and whoever finds the folder in between goes on.
"""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path

_PREFIX = ".taskstore."
_OWN = tuple(_PREFIX + what for what in ("lock", "partial", "ready", "moving", "replaced"))
_LAST = "taskstore.json"  # what makes a folder a store
_TABLE = Path("/proc/self/mountinfo")  # Linux; knows mounts within one file system, too


def is_mount(path: Path) -> bool:
    """Tell whether something is mounted at a path; a rename of it would fail with EBUSY."""
    if not os.path.lexists(path) or os.path.islink(path):
        return False
    if os.path.ismount(path):
        return True
    with suppress(OSError):
        points = (line.split(" ", 5)[4] for line in os.fsdecode(_TABLE.read_bytes()).splitlines())
        real = os.path.realpath(path)
        return any(_plain(point) == real for point in points)
    return False


def _plain(point: str) -> str:
    for code, plain in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        point = point.replace(code, plain)
    return point


def is_fixed(folder: Path) -> bool:
    """Tell whether a folder cannot be renamed from here."""
    if not os.path.isdir(folder) or os.path.islink(folder):
        return False
    return not os.access(folder.parent, os.W_OK | os.X_OK) or is_mount(folder)


def beside(target: Path, what: str) -> Path:
    """Return where a writer's own file or folder for a target lies: `.NAME.what`, or inside."""
    if is_fixed(target):
        return target / f"{_PREFIX}{what}"
    return target.with_name(f".{target.name}.{what}")


def entries(folder: Path) -> list[str]:
    """List a folder but for what a writer has in it, and what mkfs makes; raises OSError."""
    own = (*_OWN, "lost+found") if is_fixed(folder) else ()
    return [name for name in os.listdir(folder) if name not in own and not _is_lock(name, own)]


def _is_lock(name: str, own: tuple[str, ...]) -> bool:
    return bool(own) and name.startswith(own[0])  # one that is being taken away has a number


def publish(folder: Path) -> None:
    """Give a folder the content of its partial folder; for the holder of its lock."""
    os.rename(folder / _OWN[1], folder / _OWN[2])
    go_on(folder)


def between(folder: Path) -> bool:
    """Tell whether new content counts and is not all in its place; False for any other folder.

    A model from elsewhere may hold such names, too: it is not changed, nor is a link followed.
    """
    found = any(_is_folder(folder / name) for name in _OWN[2:4])
    return found and is_fixed(folder)


def _is_folder(path: Path) -> bool:
    return os.path.isdir(path) and not os.path.islink(path)


def go_on(folder: Path) -> None:
    """Put what is ready in its place, from wherever a writer was stopped; raises OSError."""
    ready, moving, replaced = (folder / name for name in _OWN[2:])
    if _is_folder(ready):
        replaced.mkdir(exist_ok=True)
        for name in sorted(entries(folder), key=lambda name: name != _LAST):
            os.rename(folder / name, replaced / name)
        sync(folder)
        os.rename(ready, moving)
    if _is_folder(moving):
        for name in sorted(os.listdir(moving), key=lambda name: name == _LAST):
            os.rename(moving / name, folder / name)
        sync(folder)
        os.rmdir(moving)
    shutil.rmtree(replaced, ignore_errors=True)


def sync(folder: Path) -> None:
    """Flush the names in a folder."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
