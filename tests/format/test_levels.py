"""Codec `levels`: quantised vectors, their rows' steps, and what a hostile stream must not do."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from taskstore.errors import FormatError
from taskstore.format.codecs import stream
from taskstore.format.codecs.levels import HEAD, Levels
from taskstore.kernels.symbols import PACKED

F32 = NDArray[np.float32]
Streams = list[NDArray[np.uint8]]


def coded(x: F32, codec: Levels) -> Streams:
    """The streams, after a look at their sizes."""
    streams = codec.encode(x.view(np.uint32), None)
    size = Levels().sizer(x.size, 4, None)
    assert [s.size for s in streams] == [size(streams[:i]) for i in range(len(streams))]
    assert all(s.size <= b for s, b in zip(streams, codec.sizes(x.size, 4), strict=True))
    return streams


def decoded(streams: Streams, n: int) -> F32:
    found = Levels().decode(streams, n, 4, None)
    assert found.dtype == np.uint32
    return found.view(np.float32)


def by_hand(streams: Streams, n: int) -> F32:
    """SPEC.md's words, element by element."""
    columns, first, unit, radix, offset, points = HEAD.unpack(streams[0].tobytes())
    radix = radix or 256
    escapes = [int(a) | int(b) << 8 for a, b in zip(streams[3], streams[4], strict=True)]
    values = np.zeros(n, np.float64)
    for i in range(n):
        z = int(streams[2][i // PACKED[radix]]) // radix ** (i % PACKED[radix]) % radix
        if z == radix - 1:
            z += escapes.pop(0)
        q = -(z + 1) // 2 if z % 2 else z // 2
        code = int(streams[1][(first + i) // columns])
        step = (16 + code % 16) * 2.0 ** (code // 16 + unit) if code else 0.0
        point = points[abs(q)] if abs(q) < 8 else 32 * abs(q) + offset
        values[i] = np.sign(q) * point / 32 * step
    assert not escapes
    assert (values.astype(np.float32) == values).all()  # no product was rounded
    return values.astype(np.float32)


def normal(n: int, seed: int = 0, scale: float = 0.01) -> F32:
    return (np.random.default_rng(seed).standard_normal(n) * scale).astype(np.float32)


@given(
    st.lists(
        st.floats(-(2.0**90), 2.0**90, width=32),
        max_size=200,
    ),
    st.integers(1, 50),
    st.integers(0, 49),
    st.sampled_from([0.02, 0.3, 1.0, 2.0, 7.0]),
)
@example([0.0, 2.0**-127], 2, 0, 0.02)  # a step without a finite reciprocal
def test_any_vector_comes_back_as_the_spec_says(
    values: list[float], columns: int, first: int, step: float
) -> None:
    x = np.array(values, np.float32)
    streams = coded(x, Levels(step, columns, first % columns))
    v = decoded(streams, x.size)
    assert (v == by_hand(streams, x.size)).all()
    assert ((v == 0) | (np.sign(v) == np.sign(x))).all()


@pytest.mark.parametrize(
    ("bits", "worst"), [(1, 0.75), (1.5, 0.30), (2, 0.11), (3, 0.025), (5, 0.002)]
)
def test_rate_and_error_of_normal_vectors(bits: float, worst: float) -> None:
    x = normal(1 << 17)
    streams = coded(x, Levels(2.0 ** (2 - bits), 1024))
    took = 8 * sum(len(stream.store(s)) for s in streams) / x.size
    assert bits - 0.2 < took < bits + 0.2
    v = decoded(streams, x.size)
    assert ((v - x) ** 2).sum() < worst * (x**2).sum()


def test_every_row_has_projection_one() -> None:
    """Rows of very different size, none aligned with the chunk: each is stretched for itself."""
    rows = (
        normal(100 * 300).reshape(100, 300) * np.geomspace(1e-3, 1, 100, dtype=np.float32)[:, None]
    )
    x = rows.astype(np.float32).reshape(-1)[17:]
    v = decoded(coded(x, Levels(1.5, 300, 17)), x.size)
    for row in range(1, 100):
        part = slice(row * 300 - 17, (row + 1) * 300 - 17)
        along = float(x[part] @ v[part]) / float(x[part] @ x[part])
        assert along == pytest.approx(1, abs=0.03)


def test_zero_is_a_zero_that_changes_nothing() -> None:
    x = np.zeros(1000, np.float32)
    streams = coded(x, Levels(1.0, 100))
    assert stream.store(streams[2]) == b""
    assert (decoded(streams, 1000).view(np.uint32) == 0x80000000).all()  # -0.0


@pytest.mark.parametrize("step", [3.0, 1.5, 0.8, 0.05])
def test_every_radix(step: float) -> None:
    x = normal(10_001)
    x[5] = 3.0  # far out: an escape in any radix but 256, and there too at a small step
    streams = coded(x, Levels(step, 1000))
    v = decoded(streams, x.size)
    assert (v == by_hand(streams, x.size)).all()
    assert v[5] == pytest.approx(3.0, rel=0.6)


def test_the_radices_that_were_tested() -> None:
    radices = {int(coded(normal(10_001), Levels(s, 1000))[0][10]) for s in (3.0, 1.5, 0.8, 0.05)}
    assert radices == {4, 6, 16, 0}


def head(streams: Streams, **changes: Any) -> None:
    names = ("columns", "first", "unit", "radix", "offset", "points")
    fields = dict(zip(names, HEAD.unpack(streams[0].tobytes()), strict=True)) | changes
    streams[0] = np.frombuffer(HEAD.pack(*fields.values()), np.uint8)


@pytest.mark.parametrize(
    "changes",
    [{"columns": 0}, {"first": 100}, {"unit": 91}, {"unit": -111}, {"radix": 5}, {"radix": 255},
     {"points": b"\x01" + bytes(7)}],
)  # fmt: skip
def test_a_head_that_makes_no_sense(changes: dict[str, Any]) -> None:
    streams = coded(normal(1000), Levels(1.0, 100))
    head(streams, **changes)
    with pytest.raises(FormatError, match="head of a chunk of levels"):
        Levels().sizer(1000, 4, None)(streams[:1])


def test_symbols_that_are_none() -> None:
    streams = coded(normal(1001), Levels(2.0, 1001))
    assert streams[0][10] == 6
    for at, byte in ((3, 216), (-1, 40)):  # 6^3 and more; beyond the last element
        broken = [s.copy() for s in streams]
        broken[2][at] = byte
        size = Levels().sizer(1001, 4, None)
        with pytest.raises(FormatError, match="holds no symbols"):
            count = size(broken[:3])
            Levels().decode([*broken[:3], *[np.zeros(count, np.uint8)] * 2], 1001, 4, None)


def test_a_level_without_bounds() -> None:
    x = normal(1000)
    x[5] = 3.0
    streams = coded(x, Levels(1.0, 100))
    streams[4] = np.full_like(streams[4], 255)
    with pytest.raises(FormatError, match="too large"):
        Levels().decode(streams, 1000, 4, None)
