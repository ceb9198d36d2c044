"""Rows of several tasks in one product by Triton's kernels, against each task's swapped weights.

They run in Triton's interpreter where there is no CUDA device.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from taskstore.kernels.device_ops import TorchVectors
from taskstore.kernels.floats import from_float32, to_float32
from taskstore.kernels.mixed.matrix import BASE
from taskstore.kernels.quantise import Quantised
from taskstore.kernels.torch_dtypes import TORCH
from tests.kernels.mixed.test_matrix import ERROR, add_rest, low_rank
from tests.kernels.test_add_quantised import vector, weights

pytest.importorskip("triton", reason="triton is not installed")
from taskstore.kernels.mixed.device_matrix import DeviceMatrix, Rows

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's, of what overflows
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
TASKS = 5


@pytest.fixture(autouse=True, scope="module")
def level() -> str:
    """No compiled loop is under test: once is enough."""
    return ""


def tensor(bits: NDArray[Any]) -> Tensor:
    return torch.from_numpy(bits.view(f"i{bits.itemsize}").copy()).to(DEVICE)


def rest_of(
    random: np.random.Generator, n: int, columns: int, length: int, ranks: bool
) -> list[Quantised]:
    """A rest in chunks of `length`, with many escapes, and a low-rank part of all of it."""
    part = low_rank(random, -(-n // columns), columns) if ranks else None
    found = []
    for start in range(0, n, length):
        some, radix = min(length, n - start), int(random.choice([4, 6, 16, 256]))
        one = vector(random, some, radix, columns, start % columns, -24, 0.05)
        mine = None if part is None else part.rows(start, some)
        found.append(replace(one, low_rank=mine))
    return found


class Family:
    """A matrix of two segments, tasks of all kinds, and what a swap makes of them."""

    def __init__(
        self, random: np.random.Generator, shape: tuple[int, int], dtype: str, usual: bool
    ) -> None:
        """Task 0 has nothing, odd ones have masks, 2 and 3 rests, 4 a mask of one segment."""
        (rows, columns), self.shape, self.dtype = shape, shape, dtype
        size, cut = rows * columns, rows // 3 * columns
        values = 0.05 * random.standard_normal((2, size)).astype(np.float32)
        w0, w1 = (from_float32(one, dtype) for one in values)
        if not usual:
            w0 = weights(random, size, dtype)
        self.matrix = DeviceMatrix(rows, columns, TORCH[dtype], DEVICE)
        self.weights = {task: w0.copy() for task in range(BASE, TASKS)}
        for start, stop in ((0, cut), (cut, size)):
            mine_N = slice(start, stop)
            segment = self.matrix.segment(tensor(w0[mine_N]), tensor((w0 ^ w1)[mine_N]))
            length = int(random.integers(1, (stop - start) // 12 + 2)) * 12
            for task in range(TASKS):
                if task & 1 or (task == 4 and start):
                    bits_P = random.integers(0, 256, (stop - start + 7) // 8).astype(np.uint8)
                    self.matrix.mask(segment, task, torch.from_numpy(bits_P).to(DEVICE))
                    chosen = np.unpackbits(bits_P, bitorder="little")[: stop - start].astype(bool)
                    self.weights[task][mine_N][chosen] = w1[mine_N][chosen]
                if task & 2 and start != stop:
                    chunks = rest_of(random, stop - start, columns, length, task == 3)
                    placed = TorchVectors(DEVICE)
                    self.matrix.rest(segment, task, [placed.place(c, DEVICE) for c in chunks])
                    add_rest(chunks, self.weights[task][mine_N], self.dtype)

    def taken(self, task: int) -> NDArray[Any]:
        """All rows of a task, as bits."""
        which_M = torch.arange(self.shape[0], device=DEVICE)
        slots_M = torch.full_like(which_M, task - BASE, dtype=torch.int32)
        found = self.matrix.take(which_M, slots_M).cpu()
        signed = found.view(torch.int32 if self.dtype == "F32" else torch.int16).numpy()
        return signed.view(self.weights[BASE].dtype).reshape(-1)

    def product(self, x_MC: Tensor, tasks_M: NDArray[np.int32]) -> Tensor:
        """Each row by its own task's weights, float64."""
        of = {
            task: torch.from_numpy(to_float32(w, self.dtype)).view(self.shape).double().T
            for task, w in self.weights.items()
        }
        x_MC = x_MC.cpu().double()
        return torch.stack([x @ of[int(task)] for x, task in zip(x_MC, tasks_M, strict=True)])


def multiplied(
    matrix: DeviceMatrix, x_MC: Tensor, tasks_M: NDArray[np.int32], *bias: Any
) -> Tensor:
    rows = Rows(len(tasks_M), DEVICE)
    rows.show(tasks_M)
    return matrix.multiply(x_MC, rows, *bias)


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
@pytest.mark.parametrize("shape", [(9, 37), (70, 64), (3, 1)], ids=str)
def test_weights_are_those_of_a_swap(dtype: str, shape: tuple[int, int]) -> None:
    """To the bit, of any bits: masks, rests, both; odd sizes, an empty segment."""
    family = Family(np.random.default_rng(1), shape, dtype, usual=False)
    for task, wanted_N in family.weights.items():
        assert np.array_equal(family.taken(task), wanted_N), task


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
@pytest.mark.parametrize(("shape", "rows"), [((70, 264), 20), ((9, 37), 1), ((65, 130), 7)])
def test_each_row_has_its_own_tasks_weights(dtype: str, shape: tuple[int, int], rows: int) -> None:
    """Unsorted tasks, one row, tasks without rows; columns in parts, a bias of each task."""
    random = np.random.default_rng(rows)
    family = Family(random, shape, dtype, usual=True)
    tasks_M = random.integers(BASE, TASKS, rows).astype(np.int32)
    x_MC = torch.from_numpy(random.standard_normal((rows, shape[1]))).to(TORCH[dtype]).to(DEVICE)
    bias_SR = torch.from_numpy(random.standard_normal((TASKS + 1, shape[0])).astype(np.float32))
    found_MR = multiplied(family.matrix, x_MC, tasks_M, bias_SR.to(DEVICE)).cpu().double()
    wanted_MR = family.product(x_MC, tasks_M) + bias_SR[torch.from_numpy(tasks_M) - BASE]
    assert ((found_MR - wanted_MR).abs() <= ERROR[dtype] * (wanted_MR.abs() + 1)).all()


def test_products_are_of_the_swapped_weights_and_no_others() -> None:
    """Rows of the unit matrix bring the weights themselves, to the bit, from all paths."""
    family = Family(np.random.default_rng(5), (40, 48), "BF16", usual=True)
    unit_MC = torch.eye(48, dtype=torch.bfloat16, device=DEVICE)
    for task, wanted_N in family.weights.items():
        found = multiplied(family.matrix, unit_MC, np.full(48, task, np.int32)).T.contiguous()
        assert np.array_equal(
            found.cpu().view(torch.int16).numpy().reshape(-1), wanted_N.view(np.int16)
        )


def test_a_row_or_task_that_is_not_finite_spoils_no_other() -> None:
    family = Family(np.random.default_rng(2), (16, 64), "BF16", usual=True)
    tasks_M = np.array([1, BASE, 3, 1], np.int32)
    x_MC = torch.ones(4, 64, dtype=torch.bfloat16, device=DEVICE)
    x_MC[0] = torch.nan
    broken = torch.full((11 * 64,), 0x7FC0, dtype=torch.int16, device=DEVICE)
    found = multiplied(family.matrix, x_MC, tasks_M)
    assert found[0].isnan().all() and found[1:].isfinite().all()
    matrix = DeviceMatrix(11, 64, torch.bfloat16, DEVICE)
    segment = matrix.segment(torch.zeros_like(broken), broken)
    matrix.mask(segment, 0, torch.full((88,), 255, dtype=torch.uint8, device=DEVICE))
    found = multiplied(matrix, x_MC[1:], np.array([BASE, 0, BASE], np.int32))
    assert found[1].isnan().all() and not found[[0, 2]].any()


def test_a_task_that_was_dropped_is_the_base_and_tables_grow() -> None:
    family = Family(np.random.default_rng(3), (9, 40), "BF16", usual=True)
    family.matrix.drop(3)
    assert np.array_equal(family.taken(3), family.weights[BASE])
    bits_P = torch.full((6 * 40 // 8,), 255, dtype=torch.uint8, device=DEVICE)
    family.matrix.mask(1, 99, bits_P)
    assert np.array_equal(family.taken(1), family.weights[1])
    assert not np.array_equal(family.taken(99), family.weights[BASE])


def test_what_does_not_fit_is_refused_before_it_is_read() -> None:
    matrix = DeviceMatrix(6, 32, torch.bfloat16, DEVICE)
    w0_N = torch.zeros(6 * 32, dtype=torch.int16, device=DEVICE)
    x_MC = torch.zeros(2, 32, dtype=torch.bfloat16, device=DEVICE)
    with pytest.raises(ValueError, match="lacks rows"):
        multiplied(matrix, x_MC, np.zeros(2, np.int32))
    with pytest.raises(ValueError, match="whole rows"):
        matrix.segment(w0_N[:40])
    segment = matrix.segment(w0_N, w0_N.clone())
    with pytest.raises(ValueError, match="mask is not of the segment's size"):
        matrix.mask(segment, 0, torch.zeros(23, dtype=torch.uint8))
    random, kernels = np.random.default_rng(0), TorchVectors(DEVICE)
    short = [kernels.place(vector(random, 36, 4, 32, 0, -20, 0.0), DEVICE)]
    with pytest.raises(ValueError, match="not those of the segment"):
        matrix.rest(segment, 1, short)
    part = low_rank(random, 12, 16)
    other = replace(vector(random, 192, 4, 16, 0, -20, 0.0), low_rank=part)
    with pytest.raises(ValueError, match="of other rows"):
        matrix.rest(segment, 1, [kernels.place(other, DEVICE)])


def test_a_rest_of_other_rows_than_the_matrix_is_the_same_in_products() -> None:
    """Steps are of the rows that the rest was made of: 32 columns here, over rows of 8."""
    random, kernels = np.random.default_rng(4), TorchVectors(DEVICE)
    chunks = [vector(random, 96, 6, 32, 0, -24, 0.05) for _ in range(2)]
    w0_N = from_float32(random.standard_normal(192).astype(np.float32), "F32")
    matrix = DeviceMatrix(24, 8, torch.float32, DEVICE)
    matrix.rest(matrix.segment(tensor(w0_N)), 0, [kernels.place(c, DEVICE) for c in chunks])
    found = multiplied(matrix, torch.eye(8, device=DEVICE), np.zeros(8, np.int32)).T.cpu()
    wanted_N = w0_N.view(np.float32) + np.concatenate([chunk.values() for chunk in chunks])
    assert np.array_equal(found.numpy().reshape(-1), wanted_N)


def test_a_vectors_rest_has_a_row_for_each_chunk() -> None:
    random, kernels = np.random.default_rng(4), TorchVectors(DEVICE)
    chunks = [vector(random, n, 6, n, 0, -24, 0.05) for n in (24, 24, 7)]
    w0_N = from_float32(random.standard_normal(55).astype(np.float32), "F32")
    matrix = DeviceMatrix(55, 1, torch.float32, DEVICE)
    matrix.rest(matrix.segment(tensor(w0_N)), 0, [kernels.place(c, DEVICE) for c in chunks])
    slots_M = torch.ones(55, dtype=torch.int32, device=DEVICE)
    found_N = matrix.take(torch.arange(55, device=DEVICE), slots_M)[:, 0].cpu().numpy()
    wanted_N = w0_N.view(np.float32) + np.concatenate([chunk.values() for chunk in chunks])
    assert np.array_equal(found_N, wanted_N)
