"""Read and write sections: a tensor in chunks, each a fixed number of streams (SPEC.md 3)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taskstore.errors import FormatError
from taskstore.format.codecs import codec, factored, low_rank, stream
from taskstore.format.codecs.chained import Order
from taskstore.format.codecs.deltas import Deltas
from taskstore.format.codecs.levels import quantised
from taskstore.format.container import ALIGN, ContainerReader, ContainerWriter
from taskstore.kernels.factored.low_rank import LowRank
from taskstore.kernels.factored.update import Update
from taskstore.kernels.quantise import Quantised

Values = NDArray[Any]
Size = Callable[[list[NDArray[np.uint8]]], int]  # streams before -> raw bytes of the next


@dataclass(frozen=True)
class Layout:
    """How a tensor of `n` elements of `itemsize` bytes is cut and coded."""

    codec: str
    n: int
    itemsize: int
    chunk: int

    @property
    def chunks(self) -> int:
        return -(-self.n // self.chunk)

    def elements(self, k: int) -> int:
        """Count the elements of chunk `k`."""
        return min(self.chunk, self.n - k * self.chunk)

    def sizes(self, k: int) -> tuple[int, ...]:
        """Bound the raw bytes of the streams of chunk `k`."""
        return codec(self.codec).sizes(self.elements(k), self.itemsize)

    @property
    def streams(self) -> int:
        return len(codec(self.codec).sizes(0, self.itemsize))

    @property
    def lead(self) -> tuple[int, ...]:
        """Bound the raw bytes of the streams that stand before those of the chunks."""
        leads = {"factored": factored.lead_sizes, "low_rank": low_rank.lead_sizes}
        return leads[self.codec](self.n) if self.codec in leads else ()

    @property
    def table(self) -> int:
        """Return the stored lengths in its table."""
        return len(self.lead) + self.chunks * self.streams

    @property
    def bound(self) -> int:
        """Return a length that no section of this layout exceeds."""
        raw = sum(codec(self.codec).sizes(self.n, self.itemsize)) + self.chunks * self.streams
        return self.table * 4 + sum(self.lead) + raw + ALIGN


def encode(name: str, chunk_N: Values, given_N: Values | None = None) -> list[bytes]:
    """Code one chunk with codec `name`; returns its stored streams."""
    streams = codec(name).encode(chunk_N, given_N)
    if name == "sparse":
        return [stream.store(s, weigh_few=True) for s in streams]
    return stream.store_all(streams)


def encode_all(chunks: Sequence[tuple[str, Values, Values | None]]) -> list[list[bytes]]:
    """`encode` chunks of several sections, none of them `sparse`, in one call of zstd."""
    assert all(name != "sparse" for name, *_ in chunks)
    streams = [codec(name).encode(chunk_N, given_N) for name, chunk_N, given_N in chunks]
    stored = iter(stream.store_all([s for one in streams for s in one]))
    return [[next(stored) for _ in one] for one in streams]


def decode(
    name: str, stored: Iterable[memoryview], n: int, itemsize: int, given_N: Values | None = None
) -> Values:
    """Decode the stored streams of `n` elements; raises FormatError."""
    return codec(name).decode(plain(name, stored, n, itemsize, given_N), n, itemsize, given_N)


def plain(
    name: str, stored: Iterable[memoryview], n: int, itemsize: int, given_N: Values | None = None
) -> list[NDArray[np.uint8]]:
    """Load the stored streams of `n` elements as the codec made them; raises FormatError."""
    return _loaded(stored, codec(name).sizer(n, itemsize, given_N))


def _loaded(stored: Iterable[memoryview], size: Size) -> list[NDArray[np.uint8]]:
    streams = list[NDArray[np.uint8]]()
    for one in stored:
        streams.append(stream.load(one, size(streams)))
    return streams


class SectionWriter:
    """Appends one section to a container, a chunk at a time, in order."""

    def __init__(self, container: ContainerWriter, name: str, layout: Layout) -> None:
        self._container, self._layout = container, layout
        self._lengths: list[int] = []
        container.begin(name, 4 * layout.table)

    def add(self, streams: Sequence[bytes]) -> None:
        for stored in streams:
            self._container.append(stored)
            self._lengths.append(len(stored))

    def finish(self) -> None:
        assert len(self._lengths) == self._layout.table
        self._container.end(np.array(self._lengths, "<u4").tobytes())


class SectionReader:
    """Decodes any chunk of one section; its table is checked when it is opened."""

    def __init__(self, container: ContainerReader, name: str, layout: Layout) -> None:
        if name not in container.entries:
            raise FormatError(f"{container.label} has no section {name!r}")
        entry = container.entries[name]
        self._container, self._layout = container, layout
        self._label = f"{container.label}: section {name!r}"
        table, lead = 4 * layout.table, len(layout.lead)
        if table > entry.end - entry.begin:
            raise FormatError(f"{self._label} is shorter than its table")
        raw = container.read(entry.begin, entry.begin + table)
        lengths = np.frombuffer(raw, "<u4").astype(np.int64)
        self._lengths = lengths[lead:].reshape(layout.chunks, layout.streams)
        starts = entry.begin + table + np.concatenate([[0], lengths.cumsum()])
        self._lead, self._starts = starts[: lead + 1], starts[lead:]
        self._check(entry.end)

    def _check(self, end: int) -> None:
        padding = end - int(self._starts[-1])
        if not 0 <= padding < ALIGN:
            raise FormatError(f"{self._label} does not add up to its length")
        if any(self._container.read(end - padding, end)):
            raise FormatError(f"{self._label} has bytes in its padding")
        if (np.diff(self._lead) > np.array(self._layout.lead, np.int64)).any():
            raise FormatError(f"{self._label} stores factors in more bytes than they have")
        last = self._layout.chunks - 1
        for k in {0, last} if last >= 0 else ():  # all but the last have one size
            rows = self._lengths[k:] if k == last else self._lengths[:last]
            if (rows > np.array(self._layout.sizes(k))).any():
                raise FormatError(f"{self._label} stores a stream in more bytes than it has")

    @property
    def guided(self) -> bool:
        """Tell whether its masks are coded given how far the multi-task model is from the base."""
        return self._layout.codec == "guided"

    def chunk(self, k: int, given_N: Values | None = None) -> Values:
        """Decode chunk `k`: unsigned (elements,) or, for masks, uint8 (ceil(elements / 8),)."""
        layout = self._layout
        with self._labelled(k):
            if layout.codec == "low_rank" and self._update is not None:
                assert given_N is not None
                given_N = self._update.predict(k * layout.chunk, given_N)
            streams = self._plain(k, given_N)
            return codec(layout.codec).decode(streams, layout.elements(k), layout.itemsize, given_N)

    def head(self, k: int, given_H: Values) -> Values:
        """Decode the first elements of chunk `k` of `deltas`, as many as are given; unchecked."""
        assert self.codec == "deltas"
        with self._labelled(k):
            return Deltas().head(self._plain(k, None), self._layout.elements(k), given_H)

    @property
    def codec(self) -> str:
        return self._layout.codec

    def first(self, k: int, order: Order) -> Values:
        """Decode chunk `k` of a `steps` section over the base; its weights lie in that order."""
        assert self.codec == "steps"
        with self._labelled(k):
            return order.first(self._streams(k, order.size_of_steps))

    def follow(self, k: int, order: Order, sorted_N: Values) -> Values:
        """Follow chunk `k` of a `chained` section from weights that lie in that order, in place."""
        assert self.codec == "chained"
        with self._labelled(k):
            return order.followed(sorted_N, self._streams(k, order.size))

    def quantised(self, k: int) -> Quantised:
        """Load chunk `k` of a section of `levels` or `factored`, still packed."""
        layout = self._layout
        assert layout.codec in ("levels", "factored")
        with self._labelled(k):
            streams, n = self._plain(k, None), layout.elements(k)
            if layout.codec == "levels":
                return quantised(streams, n)
            return factored.joined(factored.quantised(streams, n), self._low_rank, k * layout.chunk)

    @cached_property
    def _low_rank(self) -> LowRank | None:
        """The factors of the whole tensor; raises FormatError."""
        n = self._layout.n
        return factored.low_rank(self._before(factored.lead_sizer(n)), n)

    @cached_property
    def _update(self) -> Update | None:
        """What a merged adapter added to the whole tensor; raises FormatError."""
        n, itemsize = self._layout.n, self._layout.itemsize
        return low_rank.update(self._before(low_rank.lead_sizer(n)), n, itemsize)

    def _before(self, size: Size) -> list[NDArray[np.uint8]]:
        """Load the streams that stand before those of the chunks."""
        raw = self._container.read(int(self._lead[0]), int(self._lead[-1]))
        ends = self._lead - self._lead[0]
        return _loaded([raw[a:b] for a, b in pairwise(ends.tolist())], size)

    def moved(self, k: int) -> NDArray[np.bool_]:
        """Tell where chunk `k` of an `ulp` section differs from its base, (elements,)."""
        assert self._layout.codec == "ulp"
        with self._labelled(k):
            low, *higher = self._plain(k, None)
        for plane in higher:
            low = low | plane
        moved_N: NDArray[np.bool_] = low != 0
        return moved_N

    @contextmanager
    def _labelled(self, k: int) -> Iterator[None]:
        try:
            yield
        except FormatError as error:
            raise FormatError(
                f"{self._label}, chunk {k}: {error}; restore the file from a good copy"
            ) from None

    def _plain(self, k: int, given_N: Values | None) -> list[NDArray[np.uint8]]:
        layout = self._layout
        size = codec(layout.codec).sizer(layout.elements(k), layout.itemsize, given_N)
        return self._streams(k, size)

    def _streams(self, k: int, size: Size) -> list[NDArray[np.uint8]]:
        """Load the streams of chunk `k`, of the sizes that follow from those before."""
        s = self._layout.streams
        begin = int(self._starts[k * s])
        raw = self._container.read(begin, int(self._starts[(k + 1) * s]))
        ends = self._lengths[k].cumsum()
        stored = (
            raw[end - length : end] for end, length in zip(ends, self._lengths[k], strict=True)
        )
        return _loaded(stored, size)
