"""The codec `factored`: factors before the chunks, few levels in them, and what is refused."""

from __future__ import annotations

import struct
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from taskstore.errors import FormatError
from taskstore.format.codecs import factored, stream
from taskstore.format.codecs.factored import FEW, LEAD, Factored
from taskstore.format.container import ContainerReader, ContainerWriter
from taskstore.format.section import Layout, SectionReader, SectionWriter
from taskstore.kernels.factored.low_rank import LowRank
from taskstore.locations.files import LocalFolder
from taskstore.native import range_coder
from tests.kernels.factored.test_low_rank import low_rank

Streams = list[NDArray[np.uint8]]
ROWS, COLUMNS = 40, 96


def matrix(seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal(ROWS * COLUMNS).astype(np.float32)


def coded(step: float, part: LowRank | None = None) -> Streams:
    given = factored.part_of(part, 0, ROWS * COLUMNS)
    codec = Factored(step, COLUMNS)
    return codec.encode(matrix().view(np.uint32), None if given is None else given.view(np.uint32))


def lead() -> tuple[LowRank, Streams]:
    part = low_rank(np.random.default_rng(1), ROWS, COLUMNS, 5)
    return part, factored.lead(part)


@pytest.mark.parametrize("step", [0.3, 1.0, 3.0, 4.5])
def test_a_rest_over_a_part_has_the_projection_1(step: float) -> None:
    """Rows in which some level is not 0, and that need no more than the most of a stretch."""
    x = matrix()
    part_N = (0.8 * x + 0.1 * matrix(9)).astype(np.float32)
    streams = Factored(step, COLUMNS, 0, 8.0).encode(x.view(np.uint32), part_N.view(np.uint32))
    h = factored.quantised(streams, x.size).values().reshape(ROWS, COLUMNS)
    x_RC, v = x.reshape(ROWS, COLUMNS), part_N.reshape(ROWS, COLUMNS) + h
    along = (x_RC * v).sum(1) / np.square(x_RC).sum(1)
    assert np.abs(along[h.any(1)] - 1).max(initial=0) < 0.1
    assert step > 0.5 or h.any(1).all()


def test_few_levels_take_less_than_bits_of_symbols() -> None:
    streams = coded(3.4)
    assert int(streams[0][10]) == 1
    few, n = np.count_nonzero(factored.quantised(streams, ROWS * COLUMNS).values()), ROWS * COLUMNS
    assert 0 < few < 0.06 * n
    assert 8 * streams[2].size < 0.4 * n


def test_factors_come_back() -> None:
    part, streams = lead()
    size = factored.lead_sizer(ROWS * COLUMNS)
    assert [size(streams[:i]) for i in range(2)] == [s.size for s in streams]
    bounds = factored.lead_sizes(ROWS * COLUMNS)
    assert all(s.size <= b for s, b in zip(streams, bounds, strict=True))
    found = factored.low_rank(streams, ROWS * COLUMNS)
    assert found is not None
    for name in ("codes_M", "shifts_R", "left_RM", "right_RN"):
        assert np.array_equal(getattr(found, name), getattr(part, name))
    assert (found.columns, found.unit) == (part.columns, part.unit)
    assert factored.low_rank(factored.lead(None), 7) is None


@pytest.mark.parametrize(
    ("head", "says"),
    [
        ((COLUMNS + 1, 0, 5, 100), "columns do not make"),
        ((0, 0, 5, 100), "columns do not make"),
        ((COLUMNS, 0, 41, 100), "rank 41 are not for 40 rows of 96"),
        ((COLUMNS, 0, 0, 100), "rank 0"),
        ((COLUMNS, 0, 65, 100), "rank 65"),
        ((ROWS * COLUMNS, 0, 2, 100), "rank 2 are not for 1 rows"),
        ((1, 0, 2, 100), "rank 2"),
        ((COLUMNS, 61, 5, 100), "head of factors"),
        ((COLUMNS, -111, 5, 100), "head of factors"),
        ((COLUMNS, 0, 5, 1 << 30), "head of factors"),
        ((1 << 31, 0, 64, 1 << 30), "columns do not make"),
    ],
)
def test_factors_that_do_not_multiply(head: tuple[int, int, int, int], says: str) -> None:
    """Refused by their head, before there is memory for them."""
    raw = np.frombuffer(LEAD.pack(*head), np.uint8)
    with pytest.raises(FormatError, match=says):
        factored.lead_sizer(ROWS * COLUMNS)([raw])


@pytest.mark.parametrize(("code", "number", "shift"), [(63, 127, 15), (0, 127, 6)])
def test_numbers_that_are_too_large(code: int, number: int, shift: int) -> None:
    """Sums that float32 would round."""
    out = np.empty(4000, np.uint8)
    scales, heads = np.full(ROWS, code, np.uint8), np.full((1, 3), shift, np.uint8)
    left, right = (np.full((1, k), number, np.int8) for k in (ROWS, COLUMNS))
    used = range_coder.put_factors(scales, heads, left, right, out)
    head = np.frombuffer(LEAD.pack(COLUMNS, 0, 1, used), np.uint8)
    with pytest.raises(FormatError, match="too large"):
        factored.low_rank([head, out[:used]], ROWS * COLUMNS)


def test_numbers_beyond_a_byte() -> None:
    """Noise has such numbers sooner or later; whatever is taken is in bounds."""
    refused = 0
    for seed in range(30):
        noise = np.random.default_rng(seed).integers(0, 256, 300, np.uint8)
        head = np.frombuffer(LEAD.pack(COLUMNS, 0, 3, 300), np.uint8)
        try:
            found = factored.low_rank([head, noise], ROWS * COLUMNS)
        except FormatError:
            refused += 1
        else:
            assert found is not None and found.largest() < 1 << 19
    assert refused


@pytest.mark.parametrize(("count", "length"), [(ROWS * COLUMNS + 1, 9), (9, ROWS * COLUMNS + 1)])
def test_few_levels_that_are_many(count: int, length: int) -> None:
    head = coded(3.4)[0].copy()
    head[20:28] = np.frombuffer(struct.pack("<II", count, length), np.uint8)
    with pytest.raises(FormatError, match="more levels than elements"):
        Factored().sizer(ROWS * COLUMNS, 4, None)([head, head, head][:2])


def test_few_levels_past_the_end() -> None:
    streams = coded(3.4)
    with pytest.raises(FormatError, match="past the end"):
        factored.quantised(streams, 200)


def test_a_head_of_many_levels_has_no_count() -> None:
    streams = coded(0.5)
    head = streams[0].copy()
    head[20] = 1
    with pytest.raises(FormatError, match="head of a chunk"):
        factored.quantised([head, *streams[1:]], ROWS * COLUMNS)


def test_rows_of_a_chunk_are_those_of_the_factors() -> None:
    part, _ = lead()
    chunk = factored.quantised(coded(3.4), ROWS * COLUMNS)
    assert factored.joined(chunk, part, 0).low_rank is not None
    for start in (1, COLUMNS - 1):
        with pytest.raises(FormatError, match="rows of a chunk are not those"):
            factored.joined(chunk, part, start)


def test_a_section_of_several_chunks(tmp_path: Path) -> None:
    """Each chunk by itself, in any order, with its rows of the factors; and cut files."""
    part, before = lead()
    layout = Layout("factored", ROWS * COLUMNS, 4, 1024)
    x, expected = matrix(), list[NDArray[np.float32]]()
    with closing(ContainerWriter(tmp_path / "f", ["m"], layout.bound)) as file:
        writer = SectionWriter(file, "m", layout)
        for k in range(layout.chunks):
            start, n = 1024 * k, layout.elements(k)
            given = factored.part_of(part, start, n)
            assert given is not None
            codec = Factored(3.4, COLUMNS, start % COLUMNS)
            streams = codec.encode(x[start : start + n].view(np.uint32), given.view(np.uint32))
            expected.append(factored.quantised(streams, n).values() + given)
            writer.add([stream.store(s) for s in ([*before, *streams] if not k else streams)])
        writer.finish()
        file.finish()
    with closing(
        ContainerReader(LocalFolder(tmp_path), "f", (tmp_path / "f").stat().st_size)
    ) as opened:
        reader = SectionReader(opened, "m", layout)
        for k in (2, 0, 3, 1):
            assert np.array_equal(reader.quantised(k).values(), expected[k])
        with pytest.raises(FormatError):
            SectionReader(opened, "m", Layout("levels", ROWS * COLUMNS, 4, 1024))


def test_few_is_a_head_of_levels() -> None:
    assert FEW.size == 32
    assert LEAD.size == 16
