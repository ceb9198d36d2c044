"""Updates that merged adapters made are found in weights that were rounded after it."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from taskstore.kernels import floats
from taskstore.packing.low_rank.range_finder import between, may_save

ROWS, COLUMNS = 160, 224
Bits = NDArray[np.unsignedinteger]


def merged(dtype: str, rank: int, share: float, seed: int = 0) -> tuple[Bits, Bits]:
    """Weights and the same with an update of a share of their norm; rows differ in size."""
    draw = np.random.default_rng(seed)
    w_MN = draw.standard_normal((ROWS, COLUMNS)) * 2.0 ** draw.integers(-3, 3, (ROWS, 1))
    w0_N = floats.from_float32(w_MN.astype(np.float32).ravel(), dtype)
    x_MN = floats.to_float32(w0_N, dtype).astype(np.float64).reshape(w_MN.shape)
    update_MN = draw.standard_normal((ROWS, rank)) @ draw.standard_normal((rank, COLUMNS))
    x_MN += update_MN * share * np.linalg.norm(x_MN) / max(1e-9, np.linalg.norm(update_MN))
    return floats.from_float32(x_MN.astype(np.float32).ravel(), dtype), w0_N


def far(theta_N: Bits, other_N: Bits) -> float:
    """How many floats lie between, in the mean; signs are the same but for few."""
    return float(np.abs(theta_N.astype(np.int64) - other_N.astype(np.int64)).clip(0, 1e6).mean())


@pytest.mark.parametrize("share", [0.02, 0.1, 0.5])
@pytest.mark.parametrize(("dtype", "ranks"), [("BF16", {6}), ("F16", {6, 18}), ("F32", {18})])
def test_it_says_nearly_what_each_weight_became(dtype: str, ranks: set[int], share: float) -> None:
    """What is left is of the size of the rounding; for fp32 factors are made in two parts."""
    theta_N, w0_N = merged(dtype, 6, share)
    found = between(theta_N, w0_N, dtype, COLUMNS)
    assert min(ranks) <= found.rank <= max(ranks)
    before, after = far(theta_N, w0_N), far(theta_N, found.predict(0, w0_N))
    assert after < 0.3 * before if dtype == "BF16" else after < 0.02 * before
    assert may_save(theta_N, w0_N, dtype, COLUMNS) > 2


@pytest.mark.parametrize("dtype", ["BF16", "F32"])
def test_noise_has_no_update(dtype: str) -> None:
    draw = np.random.default_rng(3)
    values_N, tau_N = draw.standard_normal((2, ROWS * COLUMNS)).astype(np.float32)
    w0_N, theta_N = (floats.from_float32(v, dtype) for v in (values_N, values_N + tau_N / 10))
    assert between(theta_N, w0_N, dtype, COLUMNS).rank == 0
    assert may_save(theta_N, w0_N, dtype, COLUMNS) < 0.5
    assert may_save(w0_N, w0_N, dtype, COLUMNS) == 0
    assert between(w0_N, w0_N, dtype, COLUMNS).rank == 0


def test_what_is_not_finite_is_left_out() -> None:
    theta_N, w0_N = merged("BF16", 4, 0.1)
    theta_N[::9001], w0_N[7] = 0x7FC1, 0x7F80
    found = between(theta_N, w0_N, "BF16", COLUMNS)
    assert found.rank >= 4
    assert far(theta_N[1000:2000], found.predict(1000, w0_N[1000:2000])) < 3


def test_rows_of_zeros() -> None:
    theta_N, w0_N = merged("F32", 4, 0.1)
    theta_N[: 3 * COLUMNS] = w0_N[: 3 * COLUMNS] = 0
    found = between(theta_N, w0_N, "F32", COLUMNS)
    assert found.rank == 12
    assert not found.predict(0, w0_N)[: 3 * COLUMNS].any()


def test_the_same_machine_finds_the_same_factors() -> None:
    theta_N, w0_N = merged("BF16", 5, 0.05)
    one, two = (between(theta_N, w0_N, "BF16", COLUMNS) for _ in range(2))
    assert np.array_equal(one.left_RM, two.left_RM)
    assert np.array_equal(one.right_RN, two.right_RN)
