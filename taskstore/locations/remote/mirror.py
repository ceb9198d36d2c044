"""Read a store that lies elsewhere out of a folder of this machine, which has what was asked for.

    CACHE/stores/KEY/data/BLAKE3          files, by their content
    CACHE/stores/KEY/VERSION/...          the folder of one manifest: second names of such files

KEY stands for an address, VERSION for the content of its manifest. A file is fetched once, checked
while it comes, and then used by all versions that list it. Files that were not used for longest go
where all are larger than the cache may be (TASKSTORE_CACHE_SIZE).
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path

from blake3 import blake3

from taskstore.errors import (
    ChangedMeanwhile,
    ChecksumMismatch,
    FormatError,
    OptionError,
    RemoteError,
)
from taskstore.locations.base import Location, OpenFile, PathLike
from taskstore.locations.files import COPY_BLOCK, PARTIAL, LocalFile, LocalFolder, below
from taskstore.locations.os_errors import clear
from taskstore.locations.ownership import Written
from taskstore.locations.remote.addresses import BUCKETS, HUB, Address, location, parse
from taskstore.locations.shared import SharedFolder

SIZE = "TASKSTORE_CACHE_SIZE"
FOLDER = "TASKSTORE_CACHE"
USUAL_SIZE = 50 << 30
IN_USE = 600.0  # seconds for which a file that was used is kept, however little room there is
MANIFEST = "taskstore.json"
MAX_MANIFEST = 256 << 20  # bytes; what reads it has its own limit
TRIES = 5  # to read a manifest that others replace
AT_ONCE = 4  # files that are fetched at the same time
_UNITS = {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}
_log = logging.getLogger(__name__)


def cache() -> Path:
    """Return the folder for what is fetched, and for what is on its way to another place."""
    given = os.environ.get(FOLDER)
    return Path(given) if given else Path("~/.cache/taskstore").expanduser()


def folder_of(address: Address) -> Path:
    """Return the folder of all versions of a store at an address."""
    key = blake3(str(address).encode()).hexdigest()[:16]
    return cache() / "stores" / f"{address.name[:60].lstrip('.') or 'store'}-{key}"


def limit() -> int:
    """Return how many bytes the cache may have; raises OptionError for what is no size."""
    given = os.environ.get(SIZE, "").strip().upper().removesuffix("B").removesuffix("I")
    number, unit = given.rstrip("KMGT"), given[len(given.rstrip("KMGT")) :]
    try:
        return int(float(number) * (1 << _UNITS[unit])) if given else USUAL_SIZE
    except (ValueError, KeyError, OverflowError):
        raise OptionError(f"{SIZE} is {given!r:.40}, no size such as 50GiB") from None


class Mirror(SharedFolder):
    """The files of one version of a store, fetched when they are asked for; thread-safe."""

    def __init__(
        self, root: Path, source: Location, address: Address, files: Mapping[str, Written]
    ) -> None:
        """Name the folder of a version, where it comes from, and what its manifest lists."""
        super().__init__(root)
        self.source, self.address, self.files = source, address, files

    def have(self, names: Iterable[str]) -> None:
        """Fetch what is not there; raises FormatError, ChecksumMismatch or OSError."""
        wanted = {name: self.files[name] for name in names if name in self.files}
        for name in wanted:
            with suppress(FileNotFoundError):
                os.utime(self._path(name))
        missing = {n: f for n, f in wanted.items() if not self._path(n).exists()}
        if not missing:
            return
        size = sum(file.bytes for file in missing.values())
        trim(cache() / "stores", limit() - size, {self._data(file) for file in wanted.values()})
        _log.info("fetching %d files of %s: %s bytes", len(missing), self.address, f"{size:,}")
        with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="taskstore-mirror") as pool:
            for _ in pool.map(lambda name: self._fetch(name, missing[name]), missing):
                pass

    def names(self) -> Iterator[str]:
        yield from sorted(self.files)

    def open(self, name: str) -> OpenFile:
        self.have([name])
        return super().open(name)

    def _data(self, file: Written) -> Path:
        return self._root.parent / "data" / str(file.blake3)

    def _fetch(self, name: str, file: Written) -> None:
        data, path = self._data(file), self._path(name)
        try:
            data.parent.mkdir(parents=True, exist_ok=True)
            path.parent.mkdir(parents=True, exist_ok=True)
            if not (data.exists() and _linked(data, path)):
                fetch(self.source, name, file, data)
                _linked(data, path)
        except FileNotFoundError:
            raise FormatError(f"{name} is missing from {self.address}") from None


def _linked(data: Path, path: Path) -> bool:
    """Give a file of the cache its name in a store; False where another process has removed it."""
    with suppress(FileExistsError):
        try:
            os.link(data, path)
        except FileNotFoundError:
            return False
    return True


def fetch(source: Location, name: str, listed: Written, target: Path) -> None:
    """Fetch a file and check it; `target` appears when it is whole.

    Raises FormatError or ChecksumMismatch where it is not what is listed, OSError.
    """
    if hasattr(source, "fetch"):
        source.fetch([name])  # into the cache of the hub's own library
    file, state = source.open(name), blake3()
    partial = target.with_name(f".{os.urandom(8).hex()}{PARTIAL}")
    try:
        if file.size != listed.bytes:
            raise FormatError(
                f"{name} has {file.size} bytes where the manifest records {listed.bytes}"
            )
        if isinstance(file, LocalFile):
            with suppress(OSError):
                os.link(os.path.realpath(file.path), partial)
        with partial.open("rb" if partial.exists() else "xb") as out:
            for begin in range(0, file.size, COPY_BLOCK):
                block = file.read(begin, min(COPY_BLOCK, file.size - begin))
                state.update(block)
                if out.writable():
                    out.write(block)
        if listed.blake3 not in (None, state.hexdigest()):
            raise ChecksumMismatch(name, str(listed.blake3), state.hexdigest())
        os.replace(partial, target)
    except ChangedMeanwhile:
        raise FormatError(f"{name} was changed while it was read") from None
    finally:
        file.close()
        partial.unlink(missing_ok=True)


def newest(address: Address) -> tuple[Path, Location]:
    """Return the folder of a store as it is now, with its manifest in it, and where it comes from.

    Raises FormatError where no store is there, OSError.
    """
    place = location(address)
    if hasattr(place, "fetch") and MANIFEST in place.sizes():
        place.fetch([MANIFEST])
    manifest = manifest_at(place)
    if manifest is None:
        raise FormatError(f"{address} is not a taskstore store: it holds no {MANIFEST}")
    version = blake3(manifest).hexdigest()[:32]
    root = folder_of(address) / version
    try:
        if not (root / MANIFEST).exists():
            LocalFolder(root).put(MANIFEST, manifest)
        os.utime(root / MANIFEST)
    except OSError as error:
        raise clear(error, root) from None
    return root, place


def manifest_at(place: Location) -> bytes | None:
    """Read the manifest of a store; None where there is none. Raises FormatError or OSError."""
    for _ in range(TRIES):
        with suppress(ChangedMeanwhile):
            try:
                file = place.open(MANIFEST)
            except FileNotFoundError:
                return None
            with closing(file):
                if file.size > MAX_MANIFEST:
                    raise FormatError(f"the manifest has {file.size >> 20} MiB, which is too large")
                return file.read(0, file.size)
    raise RemoteError("the manifest changes faster than it can be read; try again later")


def address_of(path: PathLike) -> Address | None:
    """Return the address that is written as one, with its scheme; None for all else."""
    text = os.fspath(path)
    return parse(text) if text.startswith(tuple(f"{s}:/" for s in (HUB, *BUCKETS))) else None


def here(target: PathLike) -> Path:
    """Return a path of this machine for what lies beside a target: of an address, in the cache."""
    address = address_of(target)
    if address is None:
        return Path(target)
    (work := cache() / "work").mkdir(parents=True, exist_ok=True)
    return work / folder_of(address).name


def need_folder(path: PathLike, why: str) -> None:
    """Raise OptionError, and say why, where a path of this machine is needed and none is given."""
    if address := address_of(path):
        raise OptionError(f"{address}: {why}")


def trim(root: Path, size: int, keep: Collection[Path]) -> None:
    """Remove the files below a cache that were not used for longest, until all have `size` bytes.

    `keep` stays, and what was used within IN_USE. A file that is open can be read on.
    """
    files = dict[tuple[int, int], tuple[float, int, list[Path]]]()
    for path in below(root):
        with suppress(OSError):
            there = path.stat(follow_symlinks=False)
            if path.is_file() and path.name != MANIFEST:
                entry = files.setdefault((there.st_dev, there.st_ino), (0.0, there.st_size, []))
                files[there.st_dev, there.st_ino] = (there.st_mtime, entry[1], [*entry[2], path])
    total = sum(found[1] for found in files.values())
    for used, bytes_, paths in sorted(files.values()):
        if total <= size:
            return
        if time.time() - used > IN_USE and not {*paths} & {*keep}:
            for path in paths:
                path.unlink(missing_ok=True)
            total -= bytes_
