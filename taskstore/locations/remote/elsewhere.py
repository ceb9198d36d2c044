"""Open a model that is not on this machine: its weights stay where they are.

Its configs and tokenizers are brought here. In the place of each weight file stands a pointer, as
Git LFS writes it, so whatever is not made for such a model refuses the file and never takes it for
weights; readers that are made for it read the file by ranges.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path

from taskstore.errors import CheckpointError, RemoteError
from taskstore.locations.base import OpenFile, PathLike
from taskstore.locations.files import LocalFile, copy_regular
from taskstore.locations.remote.addresses import HUB, Address, Remote, location, parse
from taskstore.locations.scratch import scratch

_POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:{}\nsize {}\n"
_AT_ONCE = 8
_PART = 4 << 20
_cache: ContextVar[bool] = ContextVar("cache", default=False)


@contextmanager
def cached_whole() -> Iterator[None]:
    """In the block, models of a hub are fetched whole into its cache, and read there."""
    token = _cache.set(True)
    try:
        yield
    finally:
        _cache.reset(token)


@dataclass(frozen=True)
class Elsewhere:
    """The files of a model's folder that are not in it; by default there are none."""

    place: Remote | None = None
    files: Mapping[Path, str] = field(default_factory=dict)  # path of a pointer -> name there

    def holds(self, path: Path) -> bool:
        return path in self.files

    def open(self, path: Path, within: Path | None) -> OpenFile:
        """Open a file, wherever it is; raises OSError."""
        if self.place is None or path not in self.files:
            return LocalFile(path, within)
        return self.place.open(self.files[path])

    def size(self, path: Path) -> int:
        """Return the bytes of a file; raises OSError."""
        if self.place is None or path not in self.files:
            return path.stat().st_size
        return self.place.sizes()[self.files[path]]

    def bring(self, path: Path) -> None:
        """Put a file in the place of its pointer; raises OSError."""
        if self.place is not None and path in self.files:
            _bring(self.place, self.files[path], path)


HERE = Elsewhere()


@dataclass(frozen=True)
class Found:
    """`folder` is on this machine; `source` and `revision` say where the model really is."""

    folder: Path
    elsewhere: Elsewhere
    source: str
    revision: str | None


def find(address: Address, stays: Callable[[str, int], bool], stack: ExitStack) -> Found:
    """Make a folder on this machine that stands for a model elsewhere, until `stack` is closed.

    `stays` tells of a file's name and bytes whether it stays where it is. Raises OSError, or
    CheckpointError where nothing is there.
    """
    place = location(address)
    sizes = place.sizes()
    if not sizes:
        raise CheckpointError(place.address, "there is nothing at this address")
    whole = address.scheme == HUB and not address.path
    source = address.place if whole else str(Address(address.scheme, address.place, address.path))
    revision = place.address.revision
    carried = [name for name in sizes if _is_carried(name)]
    if _cache.get() and address.scheme == HUB:
        return Found(_fetched(place, carried), HERE, source, revision)
    folder = stack.enter_context(scratch(Path.cwd() / "model", small=True)) / address.name
    here = [name for name in carried if not stays(name, sizes[name])]
    _fetched(place, here)
    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="taskstore-bring") as pool:
        for _ in pool.map(lambda name: _bring(place, name, folder / name), here):
            pass
    away = {folder / name: name for name in carried if name not in set(here)}
    for path, name in away.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(_POINTER.format("0" * 64, sizes[name]))
    return Found(folder, Elsewhere(place, away), source, revision)


def local(model: PathLike) -> Path:
    """Return the folder of a model on this machine; one of a hub is fetched whole into its cache.

    Raises RemoteError, also for a model in a bucket.
    """
    address = parse(model)
    if address is None:
        return Path(model)
    if address.scheme != HUB:
        raise RemoteError(f"{address} is needed whole on this machine; copy it into a folder first")
    place = location(address)
    return _fetched(place, filter(_is_carried, place.sizes()))


def pinned(model: PathLike) -> PathLike:
    """Return the address of a model with the commit that it is at now; a path as it is."""
    address = parse(model)
    return model if address is None else str(location(address).address)


def renamed(error: CheckpointError, found: Found, address: Address) -> CheckpointError:
    """The same error, of the address and not of the folder that stands for it."""
    new = CheckpointError.__new__(type(error))
    Exception.__init__(new, str(error).replace(str(found.folder), str(address)))
    return new


def _is_carried(name: str) -> bool:
    return not any(part.startswith(".") for part in name.split("/"))


def _fetched(place: Remote, names: Iterable[str]) -> Path:
    """Bring files into the place's own cache, where it has one."""
    fetch = getattr(place, "fetch", None)
    return Path(fetch(names)) if fetch else Path()


def _bring(place: Remote, name: str, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    with closing(place.open(name)) as file:
        if isinstance(file, LocalFile):  # it is in the place's cache
            real = os.path.realpath(file.path)
            with suppress(OSError):
                os.link(real, path)
                return
            copy_regular(real, path)
            return
        with path.open("xb") as out:
            for begin in range(0, file.size, _PART):
                out.write(file.read(begin, min(_PART, file.size - begin)))
