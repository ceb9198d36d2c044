"""The pass that adds packed vectors equals the way through float32 values, bit for bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from taskstore.format.codecs.levels import HEAD, quantised
from taskstore.kernels import add_quantised, cpu
from taskstore.kernels import symbols as packing
from taskstore.kernels.device_ops import TorchVectors
from taskstore.kernels.floats import to_float32
from taskstore.kernels.quantise import MAX_LEVEL, Quantised

DTYPES = {"BF16": np.uint16, "F16": np.uint16, "F32": np.uint32}
TORCH = {2: torch.int16, 4: torch.int32}
SIGN = {"BF16": 0x8000, "F16": 0x8000, "F32": 0x80000000}
LARGEST = {"BF16": 0x7F7F, "F16": 0x7BFF, "F32": 0x7F7FFFFF}
SIZES = st.integers(0, 50) | st.sampled_from(
    [k * add_quantised.BLOCK + more for k in (1, 2) for more in (-1, 0, 1)]
)


def vector(
    random: np.random.Generator, n: int, radix: int, columns: int, first: int, unit: int, far: float
) -> Quantised:
    """Any levels and rows; a share `far` of the levels are too large for their radix."""
    z_N = random.integers(0, radix, n).astype(np.uint16)
    far_N = random.random(n) < far
    z_N[far_N] = random.integers(0, 2 * MAX_LEVEL + 1, int(far_N.sum()))
    symbols, excess = packing.pack(z_N, radix)
    points = random.integers(0, 256, 8).astype(np.uint8)
    points[0] = 0
    offset = int(random.integers(-128, 128))
    head = HEAD.pack(columns, first, unit, radix % 256, offset, points.tobytes())
    codes = random.integers(0, 256, -(-(first + n) // columns) if n else 0).astype(np.uint8)
    codes[random.random(codes.size) < 0.2] = 0
    escapes = [(excess >> shift).astype(np.uint8) for shift in (0, 8)]
    return quantised([np.frombuffer(head, np.uint8), codes, symbols, *escapes], n)


def weights(random: np.random.Generator, n: int, dtype: str) -> NDArray[Any]:
    """Any bits: not finite, denormal, zeros of both signs, the largest."""
    below_N = random.integers(0, 2 * SIGN[dtype], n).astype(DTYPES[dtype])
    some = [0, SIGN[dtype], LARGEST[dtype], LARGEST[dtype] | SIGN[dtype]]
    return np.where(random.random(n) < 0.5, random.choice(some, n), below_N).astype(below_N.dtype)


def agree(vector: Quantised, below_N: NDArray[Any], dtype: str) -> NDArray[Any]:
    """The weights, the same in all three ways."""
    w_N = np.full_like(below_N, 0x5555)
    add_quantised.add(vector, below_N, w_N, dtype)
    with np.errstate(all="ignore"):
        expected_N = cpu.add(to_float32(below_N, dtype), vector.values(), below_N, dtype)
    assert (w_N == expected_N).all()
    way, where = TorchVectors(torch.device("cpu")), torch.device("cpu")
    below, theirs = (
        torch.from_numpy(x.copy().view(np.uint8)).view(TORCH[x.itemsize]) for x in (below_N, w_N)
    )
    theirs.zero_()
    way.add(way.place(vector, where), below, theirs, dtype)
    assert (theirs.numpy().view(w_N.dtype) == w_N).all()
    return w_N


@given(
    st.integers(0, 2**32 - 1),
    SIZES,
    st.sampled_from([4, 6, 16, 256]),
    st.integers(1, 70) | st.sampled_from([1024, 10_000]),
    st.integers(0, 9999),
    st.sampled_from([-110, -30, -15, 0, 80, 90]),
    st.sampled_from([0, 0.01, 0.5, 1.0]),
    st.sampled_from(list(DTYPES)),
)
def test_one_pass_equals_the_long_way(
    seed: int, n: int, radix: int, columns: int, first: int, unit: int, far: float, dtype: str
) -> None:
    random = np.random.default_rng(seed)
    moved = vector(random, n, radix, columns, first % columns, unit, far)
    agree(moved, weights(random, n, dtype), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("radix", [4, 6, 16, 256])
def test_every_weight_of_16_bits_and_the_edges(dtype: str, radix: int) -> None:
    """Every bit pattern, in F32 those that end in 0x8000 too, beside steps of all sizes."""
    every = np.arange(1 << 16, dtype=np.uint32)
    below_N = np.concatenate([every << 16, (every << 16) | 0x8000]) if dtype == "F32" else every
    random = np.random.default_rng(radix)
    for unit in (-110, -20, 90):
        moved = vector(random, below_N.size, radix, 700, 33, unit, 0.02)
        agree(moved, below_N.astype(DTYPES[dtype]), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_not_finite_or_zero_stays(dtype: str) -> None:
    """A sum beyond the largest float leaves the weight; nothing added to -0.0 leaves it -0.0."""
    head, row = np.frombuffer(HEAD.pack(8, 0, 90, 4, 0, bytes(8)), np.uint8), np.full(1, 255, "u1")
    largest, sign = LARGEST[dtype], SIGN[dtype]
    below_N = np.array([largest, largest | sign, sign, 0, largest + 1], DTYPES[dtype])
    excess = np.array([2 * MAX_LEVEL, 2 * MAX_LEVEL - 1, 2 * MAX_LEVEL], np.uint16) - 3
    for symbols, count in (([0b1111, 0b11], 3), ([0, 0], 0)):
        escapes = [(excess[:count] >> shift).astype(np.uint8) for shift in (0, 8)]
        moved = quantised([head, row, np.array(symbols, np.uint8), *escapes], below_N.size)
        assert agree(moved, below_N, dtype).tolist() == below_N.tolist()
