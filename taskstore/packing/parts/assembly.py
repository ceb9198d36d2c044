"""Join the parts of a pack: one joiner per file, and the sums in the order of the blocks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from taskstore.errors import FormatError
from taskstore.executors import Executor
from taskstore.format.container import ContainerWriter
from taskstore.format.container_files import shard_names, split
from taskstore.format.digests import file_digest
from taskstore.format.manifest import File
from taskstore.format.section import Layout, SectionWriter
from taskstore.locations.base import Location, OpenFile
from taskstore.packing.parts.subtrees import joined
from taskstore.packing.parts.unit_files import Piece, Record
from taskstore.packing.writer import Tally

OPEN = 4  # segments that a joiner holds open


@dataclass(frozen=True)
class Joined:
    """One file of a store: its sections in order, and the pieces of each."""

    path: str
    sections: Mapping[str, Layout]
    pieces: Mapping[str, list[Piece]]


@dataclass(frozen=True)
class _Counted:
    tiers: tuple[str, ...]
    ones: int
    moved: bool
    sums: NDArray[np.float64] | None


def tally(into: Tally, records: Sequence[Record]) -> None:
    """Add up what the units measured as one machine would have: block by block."""
    values: dict[tuple[str | None, str, str], list[bytes]] = {}
    for record in records:
        for digest in record.digests:
            key = digest.task, digest.tensor, digest.tier
            if digest.whole:
                into.digests[key] = digest.whole
            else:
                values.setdefault(key, []).extend(digest.values)
    into.digests |= {key: joined(found) for key, found in values.items()}
    for products in sorted((p for r in records for p in r.products), key=lambda p: p.block):
        rows = products.rows
        into.gram.add(rows, np.frombuffer(products.products).reshape(len(rows), len(rows)))
    for count in sorted((c for r in records for c in r.counts), key=lambda c: c.block):
        sums = None if count.four_sums is None else np.array(count.four_sums)
        into.count(count.task, count.tensor, _Counted(count.tiers, count.ones, count.moved, sums))


def files_of(
    sections: Mapping[str, Mapping[str, Layout]], records: Sequence[Iterable[Piece]], limit: int
) -> list[Joined]:
    """Return the files of a store, whose bounds say what is in each, largest first.

    records   pieces of units, in the order of the units
    """
    pieces: dict[tuple[str, str], list[Piece]] = {}
    for record in records:
        for piece in record:
            pieces.setdefault((piece.stem, piece.tensor), []).append(piece)
    files = []
    for stem, layouts in sections.items():
        shards = split({name: layout.bound for name, layout in layouts.items()}, limit)
        for path, inside in zip(shard_names(stem, len(shards)), shards, strict=True):
            own = {name: pieces.get((stem, name), []) for name in inside}
            files.append(Joined(path, {name: layouts[name] for name in inside}, own))
    return sorted(files, key=lambda f: -sum(sum(p.lengths) for ps in f.pieces.values() for p in ps))


def join(
    root: Path, files: Sequence[Joined], place: Location, executor: Executor
) -> dict[str, File]:
    """Write the files below `root`; returns their sizes and checksums."""
    return dict(executor.map(join_file, (root, place), files))


def join_file(shared: tuple[Path, Location], file: Joined) -> tuple[str, File]:
    """Write one file of the store: its sections, each of its pieces in order."""
    root, place = shared
    path, open_files = root / file.path, _OpenFiles(place)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)  # of a joiner that died
    bound = sum(layout.bound for layout in file.sections.values())
    container = ContainerWriter(path, list(file.sections), bound)
    try:
        for name, layout in file.sections.items():
            section = SectionWriter(container, name, layout)
            pieces = [piece for piece in file.pieces[name] if piece.lengths]
            streams = sum(len(piece.lengths) for piece in pieces)
            if streams != layout.table:
                raise FormatError(f"the parts have {streams} streams of {name!r} of {file.path}; "
                                  "remove them and pack again")  # fmt: skip
            for piece in pieces:
                section.add(list(open_files.streams(piece)))
            section.finish()
        container.finish()
    finally:
        container.close()
        open_files.close()
    return file.path, file_digest(path)


class _OpenFiles:
    """The segments that are read last; pieces come about in the order in which they were put."""

    def __init__(self, place: Location) -> None:
        self._place, self._files = place, dict[str, OpenFile]()

    def streams(self, piece: Piece) -> Iterator[bytes]:
        if piece.file not in self._files:
            while len(self._files) >= OPEN:
                self._files.pop(next(iter(self._files))).close()
            self._files[piece.file] = self._place.open(piece.file)
        total, at = sum(piece.lengths), 0
        data = self._files[piece.file].read(piece.offset, total) if total else b""
        for length in piece.lengths:
            yield data[at : at + length]
            at += length

    def close(self) -> None:
        while self._files:
            self._files.popitem()[1].close()
