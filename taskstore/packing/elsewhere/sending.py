"""Put a store into a bucket: data files under names of their content, then the manifest; SPEC.md 8.

The manifest is put under the condition that it is what was read before. So a store is changed in
one moment, readers of the old manifest read on, and of two writers one is told.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import msgspec
from blake3 import blake3

from taskstore.errors import (
    ChangedMeanwhile,
    OptionError,
    OutputError,
    RemoteError,
    TargetExists,
)
from taskstore.format import manifest as m
from taskstore.format import manifest_file
from taskstore.format.manifest_file import OLD, not_of_a_store
from taskstore.format.names import BASE, CARD, MANIFEST, MULTITASK, by_stem
from taskstore.format.rules.since import VERSION_OF_CHANGES
from taskstore.locations import dry, publish
from taskstore.locations.base import PathLike
from taskstore.locations.remote import mirror
from taskstore.locations.remote.addresses import HUB, Address
from taskstore.locations.remote.bucket import Bucket
from taskstore.locations.scratch import scratch
from taskstore.store.card import seal

AT_ONCE = 4  # files that are put at the same time
FRESH = 12 * 3600.0  # seconds for which `gc` surely leaves a file that no manifest names
_BELOW = re.compile(
    rf"tasks/[^/]+/[^/]+\.safetensors|assets/[0-9a-f]{{64}}|{re.escape(OLD)}/[0-9a-f]{{64}}\.json"
)
_log = logging.getLogger(__name__)


def bucket(address: Address) -> Bucket:
    """Open a bucket to write; raises OptionError for what is none."""
    if address.scheme == HUB:
        raise OptionError(f"{address}: a repository of the hub is written by `taskstore push`")
    return Bucket(address)


def is_ours(name: str) -> bool:
    """Tell whether a file of a bucket can be a store's, by its name."""
    if "/" in name:
        return _BELOW.fullmatch(name) is not None
    weights = name.startswith((BASE, MULTITASK)) and name.endswith(".safetensors")
    return weights or name in (MANIFEST, CARD)


def check_target(target: PathLike, *, overwrite: bool) -> bytes | None:
    """Raise unless a store may be written at a path or an address; returns the manifest there."""
    address = mirror.address_of(target)
    if address is None:
        path = Path(target).absolute()
        publish.check_target(path, overwrite=overwrite, foreign=not_of_a_store)
        return None
    place = bucket(address)
    seen = mirror.manifest_at(place)
    if seen is not None and not overwrite:
        raise TargetExists(address)
    foreign = [name for name in place.sizes() if not is_ours(name)]
    foreign += [CARD] if seen is None and place.entry(CARD) else []
    if foreign:
        raise OutputError(
            f"{address} holds {foreign[0]!r}, which is no store's; name a prefix of its own"
        )
    return seen


@contextmanager
def store_folder(target: PathLike, *, overwrite: bool) -> Iterator[Path]:
    """Yield an empty folder that becomes the store at a path or an address when the block ends.

    Raises what `publish.folder` raises, RemoteError, and ChangedMeanwhile where another has put a
    store there.
    """
    address = mirror.address_of(target)
    if address is None:
        path = Path(target)
        with publish.folder(path, overwrite=overwrite, foreign=not_of_a_store) as folder:
            yield folder
        return
    seen = check_target(target, overwrite=overwrite)
    dry.stop()
    with scratch(mirror.folder_of(address)) as folder:
        yield folder
        put_store(bucket(address), manifest_file.read(folder), folder, seen)


def named(manifest: m.Manifest, paths: Collection[str]) -> dict[str, str]:
    """Return path -> name in a bucket: with the first digits of what the files of its stem hold."""
    names = {path: path for path in paths}
    for stem, own in by_stem(paths).items():
        lines = "".join(f"{manifest.files[path].blake3}\n" for path in own)
        tag = f"-{blake3(lines.encode()).hexdigest()[:12]}"
        for path in own:
            rest = path.removeprefix(stem)
            names[path] = path if rest.startswith(tag) else f"{stem}{tag}{rest}"
    return names


def put_store(
    place: Bucket,
    manifest: m.Manifest,
    folder: Path,
    seen: bytes | None,
    found: Callable[[str], Path] | None = None,
) -> m.Manifest:
    """Put a store's new files, and then its manifest; returns that.

    New is what lies in `folder`, which gets card and manifest; or all, with `found`, which brings a
    file to this machine and says where it is. `seen`: the manifest that is replaced. Raises
    ChangedMeanwhile where another is there now, RemoteError.
    """
    listed = {path: file for path, file in manifest.files.items() if path != CARD}
    new = [path for path in listed if found or (folder / path).is_file()]
    find = found or (lambda path: folder / path)
    names = named(manifest, new)
    files = {names.get(path, path): file for path, file in listed.items()}
    version = max(manifest.version, VERSION_OF_CHANGES)
    done = seal(folder, msgspec.structs.replace(manifest, version=version, files=files))
    there = _kept_there(place, seen)
    missing = [path for path in new if there.get(names[path]) != listed[path].bytes]
    size = sum(listed[path].bytes for path in missing)
    _log.info("putting %d files to %s: %s bytes", len(missing), place.address, f"{size:,}")
    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="taskstore-put") as pool:
        for _ in pool.map(lambda path: place.put_file(names[path], find(path)), missing):
            pass
    now = place.sizes()
    for path in new:
        if now.get(names[path]) != listed[path].bytes:
            raise RemoteError(
                f"{place.address}/{names[path]} was removed while others were put, by a `gc` as it "
                "seems; run the command again"
            )
    if seen is not None:
        place.put(f"{OLD}/{m.checksum_of(seen)}.json", seen)
    try:
        place.put_if_unchanged(MANIFEST, (folder / MANIFEST).read_bytes(), seen)
    except ChangedMeanwhile:
        raise ChangedMeanwhile(
            f"{place.address} was changed by another taskstore since it was read, and is as that "
            "one left it; run the command again"
        ) from None
    place.put(CARD, (folder / CARD).read_bytes())
    return done


def _kept_there(place: Bucket, seen: bytes | None) -> dict[str, int]:
    """Return name -> bytes of what need not be put: it is listed, or was put not long ago."""
    listed = m.from_bytes(seen).files if seen is not None else {}
    return {
        name: entry.size
        for name, entry in place.entries().items()
        if name in listed or time.time() - entry.modified.timestamp() < FRESH
    }
