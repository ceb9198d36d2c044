"""`similarity` and `products` against plain NumPy, whole and sampled."""

from __future__ import annotations

import numpy as np
import pytest

from taskstore.kernels import floats, products
from taskstore.merging import similarity
from taskstore.models import TensorInfo


def normal(*shape: int) -> similarity.F32:
    """The same numbers at every call: what ran before does not change what a test sees."""
    return np.random.default_rng(7).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize(("vectors", "n"), [(1, 1), (2, 0), (3, 1023), (5, 4100)])
def test_inner_products(vectors: int, n: int) -> None:
    x_SN = normal(vectors, n)
    wide_SN = x_SN.astype(np.float64)
    assert products.inner(x_SN) == pytest.approx(wide_SN @ wide_SN.T, rel=1e-5, abs=1e-3)


@pytest.mark.parametrize("share", [1, 0.25, 0.01])
@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
def test_weights_and_vectors_are_sampled_alike(dtype: str, share: float) -> None:
    raw_SN = np.array([floats.from_float32(row, dtype) for row in normal(4, 1 << 15)])
    values_SN = np.array([floats.to_float32(row, dtype) for row in raw_SN])
    tau_SN = values_SN[1:] - values_SN[0]
    found = similarity.of_weights([(row, dtype) for row in raw_SN[1:]], (raw_SN[0], dtype), share)
    assert found == pytest.approx(similarity.of_vectors(tau_SN, share), rel=1e-5, abs=1e-2)
    if dtype == "BF16":
        assert (similarity.of_bf16(raw_SN[1:], raw_SN[0], share) == found).all()


def test_a_sample_is_near_the_whole_and_reaches_every_part() -> None:
    tau_SN = normal(3, 1 << 18)
    tau_SN[1] += 0.5 * tau_SN[0]
    whole, part = (similarity.of_vectors(tau_SN, share) for share in (1, 0.1))
    assert part == pytest.approx(whole, rel=0.05, abs=0.01 * whole[0, 0])
    runs = similarity._runs(1 << 18, 0.1)
    assert runs is not None and runs.size == 102
    assert np.diff(runs).min() > 0 and np.diff(runs).max() <= 20


def test_a_weight_that_is_not_finite_counts_as_zero() -> None:
    tau_SN = np.array([[1, np.nan, 2], [3, 4, np.inf]], np.float32)
    assert similarity.of_vectors(tau_SN, 1).tolist() == [[5, 3], [3, 25]]
    large_SN = np.full((2, 4), 1e30, np.float32)
    assert similarity.of_vectors(large_SN, 1) == pytest.approx(np.full((2, 2), 4e60), rel=1e-5)


def test_small_families_are_measured_whole() -> None:
    assert similarity.share_of([(TensorInfo("BF16", (1 << 20,)), 8)]) == 1
    share = similarity.share_of([(TensorInfo("BF16", (1 << 30,)), 8), (TensorInfo("F32", ()), 0)])
    assert share == similarity.SAMPLE / (8 << 30)
