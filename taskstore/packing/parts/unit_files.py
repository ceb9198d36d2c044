"""The files of a unit that is done: its coded streams, and last a record of them.

They lie in the place of parts (`FAMILY.parts` beside the store), which any number of workers
write: a file is put whole, and two that do the same unit put the same bytes.
"""

from __future__ import annotations

import msgspec

from taskstore.locations.base import Location

SEGMENT = 32 << 20  # bytes of streams that are put at a time


class Piece(msgspec.Struct, frozen=True, array_like=True):
    """Stored streams of one block of a section: where they lie, and how long each is."""

    stem: str
    tensor: str
    file: str
    offset: int
    lengths: list[int]


class Digest(msgspec.Struct, frozen=True, array_like=True):
    """The checksum of a rebuilt tensor; of a piece of one, the value of each block."""

    task: str | None
    tensor: str
    tier: str
    whole: str
    values: list[bytes]


class Count(msgspec.Struct, frozen=True, array_like=True):
    """What was measured of a task in one block; `block` is its number in the whole pack."""

    block: int
    task: str
    tensor: str
    tiers: tuple[str, ...]
    ones: int
    moved: bool
    four_sums: tuple[float, float, float, float] | None


class Products(msgspec.Struct, frozen=True, array_like=True):
    """Inner products of the vectors of the tasks of one block, float64 (S, S)."""

    block: int
    rows: list[int]
    products: bytes


class Record(msgspec.Struct, frozen=True, array_like=True):
    """All of a unit, each list in the order of its blocks."""

    pieces: list[Piece]
    digests: list[Digest]
    counts: list[Count]
    products: list[Products]


def name_of(folder: str, unit: int) -> str:
    """Return the name of a unit's record; names of its streams begin with it."""
    return f"{folder}/unit-{unit:06d}"


def done(place: Location, folder: str) -> set[str]:
    """Return the names of the records that are there."""
    return {n for n in place.names() if n.startswith(f"{folder}/unit-") and "." not in n}
