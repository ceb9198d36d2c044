"""Merge methods: by hand, against an independent computation, for any block size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from taskstore.merging.methods.lsq import network
from taskstore.merging.methods.ties import Ties
from taskstore.merging.methods.trim import Trim
from tests.support import oracle
from tests.support.blocks import Flat, merge, vectors

F32 = NDArray[np.float32]


def ties_oracle(tau_TN: F32) -> F32:
    vectors = {f"{t:02d}": {"w": torch.from_numpy(row.copy())} for t, row in enumerate(tau_TN)}
    result: F32 = oracle.merged_ties(vectors)["w"].numpy()
    return result


def random_tau(tasks: int, n: int, seed: int) -> F32:
    """bf16-like steps, so that magnitudes repeat and cancel exactly."""
    rng = np.random.default_rng(seed)
    steps: F32 = (rng.integers(-8, 9, (tasks, n)) * 2.0**-10).astype(np.float32)
    return steps


def test_sum_by_hand() -> None:
    tau = np.array([[1, -2, 0.5], [3, 2, 0.25], [0, 1, -1]], np.float32)
    assert merge("sum", tau).tolist() == [4.0, 1.0, -0.25]


def test_sum_adds_in_order_of_tasks() -> None:
    tau = np.array([[1e8], [1.0], [-1e8]], np.float32)
    assert merge("sum", tau).tolist() == [0.0]


def test_lsq_by_hand() -> None:
    """3 and 2 share 2.5 (gain 12.5); one -4 beats 1 and 1; equal gains: the positive side."""
    tau = np.array([[3, 1, 2, 0], [2, 1, -2, 0], [-1, -4, 0, 0]], np.float32)
    assert merge("lsq", tau).tolist() == [2.5, -4.0, 2.0, 0.0]


def _cost(tau_TN: NDArray[np.float64], v_N: NDArray[Any]) -> NDArray[np.float64]:
    """What a selection between 0 and v leaves of the task vectors."""
    left: NDArray[np.float64] = np.minimum(tau_TN**2, (tau_TN - v_N) ** 2).sum(0)
    return left


@given(st.integers(1, 9), st.integers(1, 700), st.integers(0, 2**32 - 1))
def test_lsq_is_the_least_of_all(tasks: int, n: int, seed: int) -> None:
    """No mean of any subset leaves less, in float64; the result does not depend on the block."""
    rng = np.random.default_rng(seed)
    tau = (rng.standard_normal((tasks, n)) ** 3).astype(np.float32)
    found, wide = merge("lsq", tau), tau.astype(np.float64)
    assert (found == merge("lsq", tau, 97)).all()
    least = np.full(n, np.inf)
    for subset in range(1, 1 << tasks):
        chosen = [t for t in range(tasks) if subset >> t & 1]
        least = np.minimum(least, _cost(wide, wide[chosen].mean(0)))
    np.testing.assert_allclose(_cost(wide, found), least, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("tasks", [1, 2, 3, 6, 20, 33])
def test_lsq_equals_plain_torch(tasks: int) -> None:
    rng = np.random.default_rng(tasks)
    for tau in (random_tau(tasks, 501, tasks), rng.standard_normal((tasks, 501)).astype("f4")):
        vectors = {str(t): {"w": torch.from_numpy(row.copy())} for t, row in enumerate(tau)}
        assert (merge("lsq", tau) == oracle.merged_lsq(vectors, "w").numpy()).all()


@given(st.integers(0, 40), st.randoms())
def test_the_network_sorts(n: int, random: Any) -> None:
    values = [random.choice([0, 1, 2, 3, -1]) for _ in range(n)]
    expected = sorted(values, reverse=True)
    for i, j in network(n):
        assert i < j
        if values[i] < values[j]:
            values[i], values[j] = values[j], values[i]
    assert values == expected


def test_ties_by_hand() -> None:
    """density 0.5 of 4 weights: threshold is the second smallest magnitude, ties kept."""
    tau = np.array([[4, -3, 0.1, 2], [-1, 5, 2, 0.1]], np.float32)
    # kept: task 0: 4 -3 2 (>= 2), task 1: -1 5 2 (>= 1); signs: +, +, +, +
    assert merge("ties", tau, density=0.5).tolist() == [4.0, 5.0, 2.0, 2.0]


@pytest.mark.parametrize("block", [1, 7, 1000])
@pytest.mark.parametrize("tasks", [1, 2, 5])
def test_ties_equals_the_flat_computation(tasks: int, block: int) -> None:
    tau = random_tau(tasks, 501, tasks)
    assert (merge("ties", tau, block) == ties_oracle(tau)).all()


@given(st.lists(st.lists(st.integers(-3, 3), min_size=6, max_size=6), min_size=1, max_size=4))
def test_ties_with_many_equal_values(rows: Sequence[Sequence[int]]) -> None:
    tau = np.array(rows, np.float32)
    assert (merge("ties", tau, 2) == ties_oracle(tau)).all()


def test_the_threshold_is_exact_to_the_last_bit() -> None:
    rng = np.random.default_rng(3)
    tau = rng.standard_normal((2, 10_007)).astype(np.float32)
    trim, scan = Trim(0.2, per_tensor=False), Flat(tau, 999)
    trim.fit(scan)
    k = 10_007 - int(10_007 * 0.2)
    found = trim.thresholds(next(scan.slices()))
    assert (found == np.sort(np.abs(tau), axis=1)[:, k - 1]).all()


def test_tasks_that_lack_a_tensor_use_their_own_thresholds() -> None:
    method, scan = Ties(density=0.5), Flat(np.array([[1, 4], [9, 5], [3, 1]], np.float32), 2)
    method.fit(scan)
    tau = np.array([[1, 4], [3, 1]], np.float32)
    assert method.merge(vectors(tau, np.array([0, 2]))).tolist() == [4.0, 5.0]
    assert method.merge(vectors(tau, np.array([1, 2]))).tolist() == [3.0, 1.0]
