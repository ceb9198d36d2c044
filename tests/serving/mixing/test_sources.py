"""A mixed step's weights, read from what lies beside the live ones, are those of a swap."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from taskstore_serving.mixing.sources import sources
from taskstore_serving.weights.family import LiveFamily

from taskstore.kernels.mixed.matrix import BASE, ITEMSIZE, MixedMatrix
from taskstore.swap.states import State
from tests.serving.weights.test_family import Fused
from tests.serving.weights.test_rests import packed_with
from tests.support import families


@pytest.mark.parametrize("tiers", ["mask", "mask,rest", "rest"])
def test_every_row_is_that_of_a_swap(small: families.Family, tmp_path: Path, tiers: str) -> None:
    """Of fused, padded and plain tensors."""
    store, model = packed_with(small, tmp_path / "store", tiers=tiers), Fused()
    family = LiveFamily(model, store, store.tasks, residual=int("rest" in tiers))
    found: dict[tuple[str, State], bytes] = {}
    changed = 0
    for live in family.lives:
        if live.dtype not in ITEMSIZE:
            continue
        columns = live.tensor.shape[-1] if live.tensor.dim() == 2 else 1
        rows = live.tensor.numel() // columns
        matrix = MixedMatrix(rows, columns, live.dtype)
        for part in sources(live, family.beside):
            segment = matrix.segment(part.w0_N, part.d_N)
            for number, task in enumerate(store.tasks):
                part.give(matrix, segment, task, number)
                changed += part.changes(task)
        numbers: list[tuple[int, State]] = [(BASE, None), *enumerate(store.tasks)]
        for number, state in numbers:
            mine = np.full(rows, number, np.int32)
            found[live.name, state] = matrix.take(np.arange(rows), mine).tobytes()
    for _, state in numbers:
        family.swap(state)
        for live in family.lives:
            if (live.name, state) in found:
                assert found[live.name, state] == live.flat.numpy().tobytes(), (live.name, state)
    assert changed > len(store.tasks)
