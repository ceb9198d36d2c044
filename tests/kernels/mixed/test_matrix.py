"""Rows of several tasks in one product, against each task's weights as a swap makes them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from taskstore.kernels import cpu
from taskstore.kernels.factored.low_rank import LowRank
from taskstore.kernels.floats import from_float32, to_float32
from taskstore.kernels.mixed.matrix import BASE, SLAB, Groups, MixedMatrix
from taskstore.kernels.quantise import Quantised
from tests.kernels.test_add_quantised import DTYPES, vector, weights

RADIX = [4, 6, 16, 256]
ERROR = {"BF16": 2**-8, "F16": 2**-10, "F32": 1e-5}  # of one rounding; float32 sums


def low_rank(random: np.random.Generator, rows: int, columns: int) -> LowRank:
    rank = int(random.integers(1, 6))
    factors = [random.integers(-7, 8, (rank, n)).astype(np.int8) for n in (rows, columns)]
    codes, shifts = (random.integers(0, 9, rows), random.integers(0, 3, rank))
    return LowRank(columns, -20, codes.astype(np.uint8), shifts.astype(np.uint8), *factors)


def add_rest(chunks: list[Quantised], w_N: NDArray[Any], dtype: str) -> None:
    """What a swap makes of weights: each chunk's values are added, and rounded."""
    at = 0
    for chunk in chunks:
        below_N = w_N[at : at + chunk.n].copy()
        with np.errstate(all="ignore"):
            wide = to_float32(below_N, dtype)
            w_N[at : at + chunk.n] = cpu.add(wide, chunk.values(), below_N, dtype)
        at += chunk.n


def rest(random: np.random.Generator, n: int, columns: int) -> list[Quantised]:
    """A rest in chunks that need not end with a row."""
    size = int(random.integers(1, n // 12 + 2)) * 12
    found = []
    for start in range(0, n, size):
        some, first = min(size, n - start), start % columns
        one = vector(random, some, random.choice(RADIX), columns, first, -24, 0.05)
        part = low_rank(random, -(-(first + some) // columns), columns)
        found.append(replace(one, low_rank=part) if random.random() < 0.5 else one)
    return found


class Family:
    """A matrix of two segments, eight tasks of all kinds, and what a swap makes of them."""

    def __init__(self, random: np.random.Generator, shape: tuple[int, int], dtype: str) -> None:
        rows, columns = shape
        self.matrix, self.dtype, self.shape = MixedMatrix(rows, columns, dtype), dtype, shape
        size, cut = rows * columns, rows // 3 * columns
        values = 0.05 * random.standard_normal((2, size)).astype(np.float32)
        w0, w1 = (from_float32(one, dtype) for one in values)
        self.usual = random.random() < 0.7
        if not self.usual:
            w0 = weights(random, size, dtype)
        self.weights = {BASE: w0, **{task: w0.copy() for task in range(8)}}
        for start, stop in ((0, cut), (cut, size)):
            if start == stop:
                continue
            segment = self.matrix.segment(w0[start:stop], (w0 ^ w1)[start:stop])
            for task in range(8):
                if task & 1:
                    bits = random.integers(0, 256, (stop - start + 7) // 8).astype(np.uint8)
                    self.matrix.mask(segment, task, bits)
                    chosen = np.unpackbits(bits, bitorder="little")[: stop - start].astype(bool)
                    self.weights[task][start:stop][chosen] = w1[start:stop][chosen]
                if task & 2:
                    chunks = rest(random, stop - start, columns)
                    self.matrix.rest(segment, task, chunks)
                    add_rest(chunks, self.weights[task][start:stop], self.dtype)

    def product(
        self, x: NDArray[Any], tasks: NDArray[np.int32]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The sums, and those of the sizes of what is added."""
        wide = {task: to_float32(w, self.dtype).astype(float) for task, w in self.weights.items()}
        values = to_float32(x.reshape(-1), self.dtype).reshape(x.shape).astype(float)
        of = [wide[int(task)].reshape(self.shape).T for task in tasks]
        pairs = list(zip(values, of, strict=True))
        return np.array([x @ w for x, w in pairs]), np.array([abs(x) @ abs(w) for x, w in pairs])


@settings(max_examples=40)
@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.tuples(st.integers(1, 40), st.integers(1, 140) | st.sampled_from([32, 64, 256])),
    dtype=st.sampled_from(list(DTYPES)),
    rows=st.integers(1, 30),
)
def test_each_row_has_the_weights_of_a_swap(
    seed: int, shape: tuple[int, int], dtype: str, rows: int
) -> None:
    """Unsorted tasks, one row, some without any; weights to the bit, sums to a rounding."""
    random = np.random.default_rng(seed)
    family = Family(random, shape, dtype)
    for task, wanted in family.weights.items():
        found = family.matrix.take(np.arange(shape[0]), np.full(shape[0], task, np.int32))
        assert (found.reshape(-1) == wanted).all()
    if not family.usual:  # sums of any bits say nothing
        return
    tasks = random.integers(BASE, 8, rows).astype(np.int32)
    groups = Groups.of(tasks)
    empty = np.repeat(groups.ends_G, 2)  # a group without rows after each
    groups = Groups(groups.order_M, empty, np.repeat(groups.tasks_G, 2))
    x = from_float32(random.standard_normal(rows * shape[1]).astype(np.float32), dtype)
    x = x.reshape(rows, shape[1])
    bias = random.standard_normal((len(empty), shape[0])).astype(np.float32)
    bias[1::2] = np.nan
    y = np.zeros((rows, shape[0]), DTYPES[dtype])
    family.matrix.multiply(x, groups, y, bias, threads=2)
    wanted, sizes = family.product(x, tasks)
    wanted += bias[np.searchsorted(groups.tasks_G, tasks)]
    found = to_float32(y.reshape(-1), dtype).reshape(y.shape)
    bound = ERROR[dtype] * (np.abs(wanted) + 1) + 2e-6 * sizes  # of twenty roundings on the way
    assert (np.abs(found - wanted) <= bound).all()


def test_a_task_that_was_dropped_is_the_base() -> None:
    family = Family(np.random.default_rng(3), (9, 40), "BF16")
    family.matrix.drop(3)
    found = family.matrix.take(np.arange(9), np.full(9, 3, np.int32))
    assert (found.reshape(-1) == family.weights[BASE]).all()


def test_what_does_not_fit_is_refused_before_it_is_read() -> None:
    w0 = np.zeros(6 * 32, np.uint16)
    matrix, groups = MixedMatrix(6, 32, "BF16"), Groups.of(np.zeros(2, np.int32))
    x, y = np.zeros((2, 32), np.uint16), np.zeros((2, 6), np.uint16)
    with pytest.raises(ValueError, match="lacks rows"):
        matrix.multiply(x, groups, y)
    with pytest.raises(ValueError, match="whole rows"):
        matrix.segment(w0[:40], w0[:40])
    segment = matrix.segment(w0, w0.copy())
    with pytest.raises(ValueError, match="mask is not of the segment's size"):
        matrix.mask(segment, 0, np.zeros(23, np.uint8))
    with pytest.raises(ValueError, match="activations differ in size"):
        matrix.multiply(x, groups, y[:, :5].copy())
    with pytest.raises(ValueError, match="a row that is not there"):
        matrix.multiply(x, Groups(np.array([0, 2], np.int32), groups.ends_G, groups.tasks_G), y)
    with pytest.raises(ValueError, match="no|not one of the matrix"):
        matrix.take(np.array([6]), np.array([BASE], np.int32))
    short = vector(np.random.default_rng(0), 36, 4, 32, 0, -20, 0.0)
    matrix.rest(segment, 1, [short])
    with pytest.raises(ValueError, match="lacks chunks"):
        matrix.take(np.array([0]), np.array([1], np.int32))


def in_slabs(values_N: NDArray[Any], shape: tuple[int, int]) -> NDArray[Any]:
    """Rows in slabs of SLAB, each in pairs of columns."""
    slabs = np.split(values_N.reshape(shape), range(SLAB, shape[0], SLAB))
    pairs = [slab.reshape(len(slab), -1, 2).transpose(1, 0, 2).reshape(-1) for slab in slabs]
    return np.ascontiguousarray(np.concatenate(pairs))


@settings(max_examples=40)
@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.tuples(st.sampled_from([16, 32, 48, 112]), st.sampled_from([32, 96])),
    rows=st.integers(1, 40),
    tasks=st.integers(1, 10),
    has_d=st.booleans(),
    threads=st.integers(1, 2),
)
def test_slabs_are_the_same_matrix(
    seed: int, shape: tuple[int, int], rows: int, tasks: int, has_d: bool, threads: int
) -> None:
    """Few rows of a task, many, and tasks without a mask; weights to the bit."""
    random, size = np.random.default_rng(seed), shape[0] * shape[1]
    values = 0.05 * random.standard_normal((2, size)).astype(np.float32)
    w0, w1 = (from_float32(one, "BF16") for one in values)
    matrix = MixedMatrix(*shape, "BF16")
    d = in_slabs(w0 ^ w1, shape) if has_d else None
    segment = matrix.segment(in_slabs(w0, shape), d, slabs=True)
    weights = dict.fromkeys(range(BASE, tasks), w0)
    for task in range(0, tasks if has_d else 0, 2):
        chosen = random.random(size) < 0.5
        bits = np.packbits(in_slabs(chosen, shape), bitorder="little")
        matrix.mask(segment, task, bits)
        weights[task] = np.where(chosen, w1, w0)
    every = np.arange(shape[0])
    for task, wanted in weights.items():
        found = matrix.take(every, np.full(shape[0], task, np.int32))
        assert (found.reshape(-1) == wanted).all()
    of = random.integers(BASE, tasks, rows).astype(np.int32)
    groups = Groups.of(of)
    x = from_float32(random.standard_normal(rows * shape[1]).astype(np.float32), "BF16")
    x[: shape[1]] = 0x7FC0  # a row of NaN spoils no other
    bias = random.standard_normal((len(groups.ends_G), shape[0])).astype(np.float32)
    y = np.zeros((rows, shape[0]), np.uint16)
    matrix.multiply(x.reshape(rows, -1), groups, y, bias, threads)
    wide = to_float32(x, "BF16").reshape(rows, -1).astype(float)
    for row, task in enumerate(of):
        matrix_RC = to_float32(weights[int(task)], "BF16").reshape(shape).astype(float)
        wanted_R = matrix_RC @ wide[row] + bias[np.searchsorted(groups.tasks_G, task)]
        found_R = to_float32(y[row], "BF16")
        if row:
            assert (np.abs(found_R - wanted_R) <= ERROR["BF16"] * (np.abs(wanted_R) + 1)).all()
        else:
            assert np.isnan(found_R).all()


def test_slabs_take_no_rests_and_no_odd_sizes() -> None:
    w0 = np.zeros(48 * 32, np.uint16)
    for rows, columns in ((24, 64), (96, 16)):
        with pytest.raises(ValueError, match="slabs are of matrices"):
            MixedMatrix(rows, columns, "BF16").segment(w0, slabs=True)
    matrix = MixedMatrix(48, 32, "BF16")
    segment = matrix.segment(w0, w0.copy(), slabs=True)
    short = vector(np.random.default_rng(0), 36, 4, 32, 0, -20, 0.0)
    with pytest.raises(ValueError, match="not of slabs"):
        matrix.rest(segment, 1, [short])
