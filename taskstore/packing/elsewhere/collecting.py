"""Remove from a bucket what no manifest names, once nobody can be about to name or to read it."""

from __future__ import annotations

import time
from contextlib import suppress

from taskstore.errors import FormatError
from taskstore.format import manifest as m
from taskstore.format.manifest_file import OLD
from taskstore.format.names import CARD, MANIFEST
from taskstore.locations import dry
from taskstore.locations.base import PathLike
from taskstore.locations.remote import mirror
from taskstore.locations.remote.bucket import Bucket, Entry
from taskstore.packing.elsewhere.sending import bucket, is_ours

DAY = 24 * 3600.0


def collect(target: PathLike, older: float = DAY) -> tuple[int, int]:
    """Remove files of a store at an address that are older than so many seconds, and not needed.

    Needed is what the manifest lists, and what one listed that was replaced since then. Returns how
    many bytes are gone, and how many older manifests are left. Raises FormatError for a manifest
    that cannot be read, or was lost: nothing is removed then.
    """
    address = mirror.address_of(target)
    assert address is not None
    place, until = bucket(address), time.time() - older
    while True:
        seen = mirror.manifest_at(place)
        gone, left = _not_needed(place, seen, until)
        if mirror.manifest_at(place) == seen:
            break
    dry.note(would_remove=sorted(gone), also=[f"would remove: {name}" for name in sorted(gone)])
    dry.stop()
    for name in sorted(gone, key=lambda name: name.startswith(f"{OLD}/")):
        place.delete(name)
    return sum(gone.values()), left


def _not_needed(place: Bucket, seen: bytes | None, until: float) -> tuple[dict[str, int], int]:
    entries = place.entries()
    needed = {MANIFEST, CARD, *(m.from_bytes(seen).files if seen is not None else ())}
    if seen is None and any(name.startswith((f"{OLD}/", CARD)) for name in entries):
        raise FormatError(f"{place.address} lost its {MANIFEST}; nothing is removed without it")
    replaced = [n for n, e in entries.items() if n.startswith(f"{OLD}/") and _is_new(e, until)]
    for name in replaced:
        with suppress(FormatError, FileNotFoundError):
            needed |= {name, *m.from_bytes(place.read(name, m.MAX_BYTES)).files}
    gone = {
        name: entry.size
        for name, entry in entries.items()
        if name not in needed and is_ours(name) and not _is_new(entry, until)
    }
    return gone, len(replaced)


def _is_new(entry: Entry, until: float) -> bool:
    return entry.modified.timestamp() > until
