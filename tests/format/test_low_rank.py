"""The codec `low_rank`: factors before the chunks, and what is refused."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from taskstore.errors import FormatError
from taskstore.format.codecs import low_rank, stream
from taskstore.format.codecs.deltas import Deltas
from taskstore.format.codecs.low_rank import LEAD
from taskstore.format.container import ContainerReader, ContainerWriter
from taskstore.format.section import Layout, SectionReader, SectionWriter
from taskstore.kernels.factored.update import Update, no_update
from taskstore.locations.files import LocalFolder
from tests.kernels.factored.test_update import COLUMNS, MANTISSAS, ROWS, update, weights

Streams = list[NDArray[np.uint8]]
N = ROWS * COLUMNS
ZEROS = bytes(7)


def loaded(streams: Streams, itemsize: int = 2) -> Update | None:
    """Return what a reader makes of streams, whose sizes it tells first."""
    size, bounds = low_rank.lead_sizer(N), low_rank.lead_sizes(N)
    assert [size(streams[:i]) for i in range(4)] == [s.size for s in streams]
    assert all(s.size <= b for s, b in zip(streams, bounds, strict=True))
    return low_rank.update(streams, N, itemsize)


@pytest.mark.parametrize("dtype", MANTISSAS)
@pytest.mark.parametrize("largest", [1, 127, 32767])
def test_factors_come_back(dtype: str, largest: int) -> None:
    part = update(dtype, largest=largest)
    found = loaded(low_rank.lead(part), 4 if dtype == "F32" else 2)
    assert found is not None
    assert (found.columns, found.unit, found.mantissa) == (COLUMNS, part.unit, MANTISSAS[dtype])
    for name in ("codes_M", "shifts_R", "left_RM", "right_RN"):
        assert np.array_equal(getattr(found, name), getattr(part, name))
    assert loaded(low_rank.lead(no_update(7))) is None


@pytest.mark.parametrize(
    ("head", "says"),
    [
        ((COLUMNS + 1, 0, 2, 7, ZEROS), "13 columns do not make"),
        ((COLUMNS, 0, 0, 7, ZEROS), "rank 0"),
        ((COLUMNS, 0, 5, 7, ZEROS), "rank 5"),  # more numbers than the matrix has
        ((1, 0, 1, 7, ZEROS), "rank 1 and 1 columns"),
        ((1 << 31, 0, 1, 7, ZEROS), "do not make"),
        ((0, 0, 1, 7, ZEROS), "head of factors"),
        ((COLUMNS, -301, 2, 7, ZEROS), "head of factors"),
        ((COLUMNS, 101, 2, 7, ZEROS), "head of factors"),
        ((COLUMNS, 0, 2, 7, b"\0" * 6 + b"\1"), "head of factors"),
    ],
)
def test_factors_that_do_not_multiply(head: tuple[int, int, int, int, bytes], says: str) -> None:
    """Refused by their head, before there is memory for them."""
    raw = np.frombuffer(LEAD.pack(*head), np.uint8)
    with pytest.raises(FormatError, match=says):
        low_rank.lead_sizer(N)([raw])


@pytest.mark.parametrize(("mantissa", "itemsize"), [(23, 2), (7, 4), (10, 4), (8, 2), (0, 4)])
def test_factors_for_another_dtype(mantissa: int, itemsize: int) -> None:
    head, *others = low_rank.lead(update("BF16"))
    head = head.copy()
    head[8] = mantissa
    with pytest.raises(FormatError, match=f"a mantissa of {mantissa} bits"):
        loaded([head, *others], itemsize)


def test_numbers_that_are_too_large() -> None:
    """Sums that binary64 would round, and shifts that no writer makes."""
    part = update("BF16", largest=1)
    part.left_RM[:], part.right_RN[:] = -32768, 32767
    part.shifts_R[:] = 20
    assert loaded(low_rank.lead(part)) is not None
    part.shifts_R[:] = 22
    with pytest.raises(FormatError, match="too large"):
        loaded(low_rank.lead(part))
    part.left_RM[:] = 0
    assert loaded(low_rank.lead(part)) is not None
    part.shifts_R[1] = 32
    with pytest.raises(FormatError, match="too large"):
        loaded(low_rank.lead(part))


def test_a_section_of_several_chunks(tmp_path: Path) -> None:
    """Each chunk by itself, in any order, with its rows of the factors; and without any."""
    layout, w0_N = Layout("low_rank", N, 2, 64), weights("BF16", 2)
    for number, part in enumerate((update("BF16"), no_update(7))):
        theta_N, name = weights("BF16", 3), f"f{number}"
        with closing(ContainerWriter(tmp_path / name, ["m"], layout.bound)) as file:
            writer = SectionWriter(file, "m", layout)
            for k in range(layout.chunks):
                at = slice(64 * k, 64 * k + layout.elements(k))
                given = part.predict(64 * k, w0_N[at]) if part.rank else w0_N[at]
                streams = Deltas().encode(theta_N[at], given)
                streams = [*low_rank.lead(part), *streams] if not k else streams
                writer.add([stream.store(s) for s in streams])
            writer.finish()
            file.finish()
        size = (tmp_path / name).stat().st_size
        with closing(ContainerReader(LocalFolder(tmp_path), name, size)) as opened:
            reader = SectionReader(opened, "m", layout)
            for k in (1, 0):
                at = slice(64 * k, 64 * k + layout.elements(k))
                assert np.array_equal(reader.chunk(k, w0_N[at]), theta_N[at])
            with pytest.raises(FormatError):
                SectionReader(opened, "m", Layout("deltas", N, 2, 64))


def test_a_head_has_sixteen_bytes() -> None:
    assert LEAD.size == 16
