"""What layers compute on a GPU in mixed steps, in the interpreter: each row by its task's swap."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from taskstore_serving.mixing import sources as origin
from taskstore_serving.weights.family import LiveFamily
from torch import Tensor, nn

from taskstore.kernels.device_ops import TorchVectors
from taskstore.kernels.dispatch import Native, Swap
from taskstore.kernels.mixed.matrix import BASE
from taskstore.kernels.reference import swap
from taskstore.kernels.torch_dtypes import INTEGERS
from taskstore.swap.states import State
from tests.serving.support.engines import need_vllm
from tests.serving.weights.test_family import Fused
from tests.serving.weights.test_rests import packed_with
from tests.support import families

pytest.importorskip("triton", reason="triton is not installed")
pytestmark = [
    pytest.mark.slow,  # beside the engines' tests: vLLM is imported in their process alone
    pytest.mark.filterwarnings(
        "ignore::DeprecationWarning",  # while vLLM is imported
        "ignore::RuntimeWarning",  # NumPy's, of what overflows
    ),
]
CPU = torch.device("cpu")


@pytest.fixture
def device() -> Any:
    """What a GPU has, over the CPU's memory."""
    need_vllm()
    from taskstore_serving.mixing import kernels

    return kernels._OnDevice(CPU)


def as_tensors(_: torch.device) -> tuple[Swap, Native]:
    """The views that a GPU's kernels take, of the CPU's memory."""
    return swap, lambda memory, size: memory.view(INTEGERS[size])


class Given:
    """Takes what `Source.give` gives, with rests placed as on a GPU."""

    def __init__(self, matrix: Any) -> None:
        self._matrix = matrix

    def mask(self, segment: int, task: int, bits_P: Tensor) -> None:
        self._matrix.mask(segment, task, bits_P)

    def rest(self, segment: int, task: int, chunks: Any) -> None:
        vectors = TorchVectors(CPU)
        self._matrix.rest(segment, task, [vectors.place(chunk, CPU) for chunk in chunks])


@pytest.mark.parametrize("tiers", ["mask", "mask,rest"])
def test_each_row_is_computed_by_the_weights_that_a_swap_makes(
    small: families.Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: Any, tiers: str
) -> None:
    """Products, look-ups and vectors of fused, padded and plain tensors, to the bit."""
    store, model = packed_with(small, tmp_path / "store", tiers=tiers), Fused()
    family = LiveFamily(model, store, store.tasks, residual=int("rest" in tiers))
    monkeypatch.setattr(origin, "kernel_for", as_tensors)
    numbers: dict[State, int] = {None: BASE, **{task: n for n, task in enumerate(store.tasks)}}
    found: dict[Any, Tensor] = {}
    for live in family.lives:
        if live.tensor.dtype != torch.bfloat16 or live.tensor.dim() not in (1, 2):
            continue
        columns = live.tensor.shape[1] if live.tensor.dim() == 2 else 1
        matrix = device.matrix(live.tensor.numel() // columns, columns, live.tensor)
        for part in origin.sources(live, family.beside):
            segment = matrix.segment(part.w0_N, part.d_N)
            for task, number in numbers.items():
                if task is not None:
                    part.give(Given(matrix), segment, task, number)
        for task, number in numbers.items():
            found[live.name, task] = computed(device, matrix, number)
    for task in numbers:
        family.swap(task)
        for live in family.lives:
            if (live.name, task) in found:
                mine = found[live.name, task].view(torch.int16).reshape(-1)
                assert torch.equal(mine, live.tensor.view(torch.int16).reshape(-1)), live.name


def computed(device: Any, matrix: Any, number: int) -> Tensor:
    """A task's weights, out of what takes a layer's place: rows looked up, or times one."""
    step = device.step(64)
    if matrix.columns == 1:
        vectors = device.vectors(matrix, matrix.dtype)
        vectors.learn(number)
        found: Tensor = vectors.of(torch.tensor([number - BASE]))[0].to(matrix.dtype)
        return found
    embedding = device.instead(step, nn.Embedding(1, 1), matrix, None)["forward"]
    step.show(np.full(matrix.rows, number, np.int32))
    rows_RC: Tensor = embedding(torch.arange(matrix.rows))
    method = device.instead(step, nn.Linear(1, 1), matrix, None)["quant_method"]
    assert torch.equal(method.embedding(None, torch.arange(matrix.rows)), rows_RC)
    unit_CC = torch.eye(matrix.columns, dtype=matrix.dtype)
    step.show(np.full(matrix.columns, number, np.int32))
    assert torch.equal(method.apply(None, unit_CC).T, rows_RC)
    return rows_RC


def test_rows_of_several_tasks_get_each_its_bias(device: Any) -> None:
    weight, bias = torch.eye(4, dtype=torch.float32), torch.arange(4.0)
    matrix, vector = device.shared(weight), device.matrix(4, 1, bias)
    vector.segment(bias.view(torch.int32), (bias + 1).view(torch.int32) ^ bias.view(torch.int32))
    vector.mask(0, 0, torch.tensor([0b1010], dtype=torch.uint8))
    vectors = device.vectors(vector, torch.float32)
    vectors.learn(0)
    step = device.step(8)
    step.show(np.array([0, BASE, 0], np.int32))
    method = device.instead(step, nn.Linear(1, 1), matrix, vectors)["quant_method"]
    zero = torch.zeros(3, 4)
    mine = torch.tensor([0.0, 2.0, 2.0, 4.0])
    assert torch.equal(method.apply(None, zero, bias), torch.stack([mine, bias, mine]))
    shared = device.instead(step, nn.Linear(1, 1), matrix, None)["quant_method"]
    assert torch.equal(shared.apply(None, zero, bias), bias.expand(3, 4))
    assert torch.equal(shared.apply(None, zero), zero)
