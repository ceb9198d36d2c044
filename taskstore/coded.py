"""One block of a family, coded: streams for the sections, and what is rebuilt from them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from taskstore.format import names
from taskstore.store_writer import Key, StoreWriter


@dataclass
class Part:
    """Streams for one section, and the rebuilt elements of one model's tensor.

    They go into the checksums of `tiers`: their own tier's, or those of all tiers, where they are
    the rows of a grown vocabulary.
    """

    stem: str | None  # None: nothing is stored, only the checksum grows
    streams: list[bytes]
    task: str | None
    rebuilt_N: NDArray[Any]
    tiers: tuple[str, ...] = ("",)
    ones: int = 0
    moved: bool = False
    open_ended: bool = False  # more rows of this tensor follow from another section


@dataclass
class Coded:
    """One block, coded; `write` hands it to the store in order."""

    name: str
    first: bool
    last: bool
    read_bytes: int
    parts: list[Part] = field(default_factory=list)
    multitask: list[bytes] | None = None

    def write(self, writer: StoreWriter) -> None:
        with writer.hashing((k, p.rebuilt_N) for p in self.parts for k in self._keys(p)):
            if self.multitask is not None:
                self._section(writer, names.MULTITASK, self.multitask)
            for part in self.parts:
                if part.stem is not None:
                    self._section(writer, part.stem, part.streams)
        for part in self.parts:
            if part.task is not None:
                writer.count(part.task, self.name, part.ones, moved=part.moved)
            if self.last and not part.open_ended:
                for key in self._keys(part):
                    writer.close_hash(key)

    def _keys(self, part: Part) -> list[Key]:
        return [(part.task, self.name, tier) for tier in part.tiers]

    def _section(self, writer: StoreWriter, stem: str, streams: list[bytes]) -> None:
        if self.first:
            writer.begin(stem, self.name)
        writer.add(stem, streams)
        if self.last:
            writer.end(stem)

    def strip(self) -> None:
        """A tensor without elements has sections without streams."""
        self.multitask = None if self.multitask is None else []
        for part in self.parts:
            part.streams = []
