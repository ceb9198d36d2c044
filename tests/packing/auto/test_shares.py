"""Bits of a family's rests: their mean is what was asked for, and longer task vectors get more."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import taskstore
from taskstore.packing.auto.shares import MOST, UNITS, split
from taskstore.packing.options import LEAST
from tests.support import families
from tests.support.families import options

SHAPES = {"layers.0.weight": (96, 128), "norm.weight": (128,)}


@given(
    st.floats(LEAST, MOST),
    st.lists(st.floats(0, 1e6), min_size=2, max_size=20),
)
def test_the_mean_holds(mean: float, lengths: list[float]) -> None:
    bits = split(mean, lengths)
    assert all(LEAST <= one <= MOST for one in bits)
    assert abs(sum(bits) / len(bits) - mean) <= 0.51 / UNITS
    order = sorted(range(len(bits)), key=lambda i: lengths[i])
    assert [bits[i] for i in order] == sorted(bits)


def test_tasks_alike_have_what_was_asked_for() -> None:
    assert split(0.5, [3.0] * 4) == [0.5] * 4


@pytest.mark.parametrize("residual", [0.5, 2.0])
def test_below_two_bits_longer_task_vectors_get_more(residual: float, tmp_path: Path) -> None:
    base = families.random_state(0, torch.float32, shapes=SHAPES)
    tasks = {
        name: {n: w + size * families.random_state(seed, torch.float32, shapes=SHAPES)[n]
               for n, w in base.items()}
        for seed, (name, size) in enumerate((("long", 0.3), ("short", 0.1), ("own", 0.1)), 1)
    }  # fmt: skip
    family = families.Family(tmp_path, base, tasks)
    how = options(tiers="rest", residual=residual, residuals={"own": 0.4})
    taskstore.pack(family.base_path, family.paths, tmp_path / "s", how)
    packed = {n: task.bits for n, task in taskstore.open(tmp_path / "s").manifest.tasks.items()}
    assert packed["own"] == 0.4
    if residual == 2:
        assert packed["long"] == packed["short"] == 2
    else:
        assert packed["long"] == pytest.approx(3**0.6 * (packed["short"] or 0), rel=0.05)
        assert (packed["long"] or 0) + (packed["short"] or 0) == pytest.approx(1, abs=1 / UNITS)
