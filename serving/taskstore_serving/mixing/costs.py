"""Measures what products cost at start: of one task by torch, of several by the mixed kernel."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from taskstore.kernels.mixed.matrix import Groups, MixedMatrix
from taskstore_serving.mixing.layers import bits

SAMPLE = 1 << 25  # weights that are measured, of any number
REPEAT = 3
ROWS, TASKS = 16, 4

Linear = Callable[[Tensor, Tensor, Tensor | None], Tensor]
Costs = tuple[tuple[float, float], tuple[float, float, float]]


def measured(matrices: list[tuple[MixedMatrix, Tensor, Linear]], tasks: list[int]) -> Costs:
    """Seconds of all matrices: (fixed, each row) of one task, (fixed, each task, each row) mixed.

    `matrices` come with their live weights and what multiplies by them, `tasks` by number.
    """
    some, size = list[tuple[MixedMatrix, Tensor, Linear]](), 0
    for matrix in sorted(matrices, key=lambda one: -one[1].numel()):
        if size < SAMPLE:
            some.append(matrix)
            size += matrix[1].numel()
    scale = sum(weight.numel() for _, weight, _ in matrices) / max(1, size)
    several = np.resize(np.array(tasks[:TASKS], np.int32), min(TASKS, len(tasks)))

    def plain(rows: int) -> float:
        given = [(w.new_zeros(rows, w.shape[1]), w, linear) for _, w, linear in some]
        return scale * _fastest(lambda: [linear(x, w, None) for x, w, linear in given])

    def mixed(numbers: np.ndarray[tuple[int], np.dtype[np.int32]]) -> float:
        groups, threads = Groups.of(numbers), torch.get_num_threads()
        given = [
            (matrix, bits(w.new_zeros(len(numbers), n)), bits(w.new_empty(len(numbers), len(w))))
            for matrix, w, _ in some
            for n in [w.shape[1]]
        ]

        def run() -> None:
            for matrix, x, y in given:
                matrix.multiply(x, groups, y, threads=threads)

        return scale * _fastest(run)

    one, many = plain(1), plain(ROWS)
    row = max(0.0, (many - one) / (ROWS - 1))
    alone, wide, apart = (
        mixed(numbers) for numbers in (several[:1], np.repeat(several[:1], ROWS), several)
    )
    mixed_row = max(0.0, (wide - alone) / (ROWS - 1))
    task = max(0.0, (apart - alone) / max(1, len(several) - 1) - mixed_row)
    return (max(0.0, one - row), row), (max(0.0, alone - task - mixed_row), task, mixed_row)


def _fastest(run: Callable[[], object]) -> float:
    seconds = []
    for _ in range(REPEAT):
        began = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - began)
    return min(seconds)
