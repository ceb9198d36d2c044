"""Code a unit and put it in the place of parts: what one worker does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from blake3 import blake3

from taskstore.format import names
from taskstore.locations.base import Location
from taskstore.locations.remote import claims
from taskstore.packing.block_coder import BlockUnit, Coder, code
from taskstore.packing.manifest_draft import Key
from taskstore.packing.parts import unit_files
from taskstore.packing.parts.subtrees import CHUNK, subtree
from taskstore.packing.parts.unit_files import Count, Digest, Piece, Products, Record
from taskstore.packing.parts.units import Unit, cut
from taskstore.packing.writer import CodedBlock, CodedPart


class Parts:
    """What all units of a pack share: how blocks are coded, and where the parts go.

    Their `folder` there is of this very pack: what a machine that was cut off still writes for
    another one is never read.
    """

    def __init__(self, coder: Coder, place: Location, folder: str) -> None:
        self.coder, self.place, self.folder = coder, place, folder
        self.blocks: Sequence[BlockUnit] = list(coder.units())

    @cached_property
    def units(self) -> list[Unit]:
        return cut(self.coder, self.blocks)

    def __reduce__(self) -> Any:
        """Blocks and units are not sent: they follow from the rest."""
        return Parts, (self.coder, self.place, self.folder)

    def name(self, unit: Unit) -> str:
        return unit_files.name_of(self.folder, unit.number)

    @property
    def pending(self) -> list[Unit]:
        """Return the units that have no record."""
        there = unit_files.done(self.place, self.folder)
        return [unit for unit in self.units if self.name(unit) not in there]


def code_part(parts: Parts, unit: Unit) -> Unit:
    """Code the blocks of a unit one after the other; puts the record last. Raises NotFinite."""
    writer = _Writer(parts.place, parts.name(unit), cut=unit.cut)
    for number in unit.blocks:
        block = parts.blocks[number]
        writer.add(number, block.block.start, code(parts.coder, block))
    parts.coder.job.family.prove()
    writer.finish()
    return unit


@dataclass
class _Writer:
    """Holds at most one segment of streams; memory is that and a record."""

    place: Location
    name: str
    cut: bool
    record: Record = field(default_factory=lambda: Record([], [], [], []))
    waiting: list[bytes] = field(default_factory=list)
    size: int = 0
    segment: int = 0
    hashes: dict[Key, Any] = field(default_factory=dict)
    values: dict[Key, list[bytes]] = field(default_factory=dict)

    def add(self, number: int, start: int, coded: CodedBlock) -> None:
        if coded.multitask is not None:
            self._streams(names.MULTITASK, coded.name, coded.multitask)
        for part in coded.parts:
            if part.stem is not None:
                self._streams(part.stem, coded.name, part.streams)
            self._digest(coded, part, start)
            if part.task is not None:
                sums = None if part.sums is None else tuple(part.sums.tolist())
                self.record.counts.append(
                    Count(number, part.task, coded.name, part.tiers, part.ones, part.moved, sums)
                )
        if coded.products is not None:
            found = Products(number, [*map(int, coded.tasks)], coded.products.tobytes())
            self.record.products.append(found)

    def _streams(self, stem: str, tensor: str, streams: Sequence[bytes]) -> None:
        file, lengths = f"{self.name}.{self.segment}", [*map(len, streams)]
        self.record.pieces.append(Piece(stem, tensor, file, self.size, lengths))
        self.waiting += streams
        self.size += sum(lengths)
        if self.size >= unit_files.SEGMENT:
            self._flush()

    def _flush(self) -> None:
        if self.size:
            self.place.put(f"{self.name}.{self.segment}", b"".join(self.waiting))
            self.segment += 1
        self.waiting, self.size = [], 0

    def _digest(self, coded: CodedBlock, part: CodedPart, start: int) -> None:
        bits_N = part.rebuilt_N[: part.kept]
        for key in part.keys(coded.name):
            if self.cut:
                data_N = bits_N.view("u1")
                first = start * bits_N.itemsize // CHUNK
                self.values.setdefault(key, []).append(subtree(data_N, first))
            else:
                state = self.hashes.setdefault(key, blake3())
                state.update(bits_N.view("u1"))
                if coded.last and not part.open_ended:
                    whole = self.hashes.pop(key).hexdigest()
                    self.record.digests.append(Digest(*key, whole, []))

    def finish(self) -> None:
        self._flush()
        self.record.digests.extend(Digest(*key, "", found) for key, found in self.values.items())
        self.place.put(self.name, claims.encoded(self.record))
