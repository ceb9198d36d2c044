"""The four sums against plain float64, over sizes around those of the loop's steps."""

from __future__ import annotations

import numpy as np
import pytest

from taskstore.kernels.floats import from_float32, to_float32
from taskstore.kernels.products import four_sums, four_sums_of_bf16


@pytest.mark.parametrize("n", [0, 1, 63, 64, 255, 256, 257, 1000, 4096])
@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
@pytest.mark.parametrize("scale", [1.0, 1e-30, 1e30])
def test_as_in_plain_float64(n: int, dtype: str, scale: float) -> None:
    if dtype == "F16" and scale != 1:
        pytest.skip("beyond F16")
    rng = np.random.default_rng(n)
    theta0_N, tau_N = (
        (rng.standard_normal(n) * size * scale).astype(np.float32) for size in (1, 0.1)
    )
    rebuilt_N = from_float32(theta0_N + tau_N * np.float32(0.9), dtype)
    o, a, r = (x.astype(np.float64) for x in (theta0_N, tau_N, to_float32(rebuilt_N, dtype)))
    e = r - o - a
    expected = [(e * e).sum(), ((o + a) ** 2).sum(), (a * a).sum(), (a * (r - o)).sum()]
    np.testing.assert_allclose(four_sums(theta0_N, tau_N, rebuilt_N, dtype), expected, rtol=1e-6)


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
def test_what_is_not_finite_is_left_out(dtype: str) -> None:
    theta0_N, tau_N = np.full(600, 2, np.float32), np.full(600, 0.5, np.float32)
    rebuilt = np.full(600, 2.25, np.float32)
    for i, value in ((3, np.inf), (400, -np.inf), (599, np.nan)):
        theta0_N[i], tau_N[i], rebuilt[i] = value, 0, value
    rebuilt[7], tau_N[7] = np.inf, 0  # a constant that overflows in the fine-tune's own dtype
    n = 596
    expected = [n / 16, n * 6.25, n / 4, n / 8]
    assert four_sums(theta0_N, tau_N, from_float32(rebuilt, dtype), dtype).tolist() == expected


@pytest.mark.parametrize("n", [1, 255, 256, 257, 8192, 8448, 30_000])
@pytest.mark.parametrize("moved", [1e-12, 1e-3, 1.0])
def test_of_bf16_in_one_pass(n: int, moved: float) -> None:
    rng = np.random.default_rng(n)
    theta0_N = rng.standard_normal(n).astype(np.float32)
    w0_N, theta_N = (from_float32(x, "BF16") for x in (theta0_N, theta0_N * (1 + moved)))
    theta_N[0] ^= 1  # so that there is a task vector
    rebuilt_N = np.where(rng.random(n) < 0.5, w0_N, theta_N)
    theta0_N, theta_f_N = to_float32(w0_N, "BF16"), to_float32(theta_N, "BF16")
    expected = four_sums(theta0_N, theta_f_N - theta0_N, rebuilt_N, "BF16")
    found = four_sums_of_bf16(w0_N, theta_N, rebuilt_N)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("one_in", [2, 4, 8])
@pytest.mark.parametrize("n", [1 << 18, 262_143, 2048])
def test_a_sample_is_near_the_whole(n: int, one_in: int) -> None:
    """Of a matrix whose every row has outliers in the same place, too."""
    rng = np.random.default_rng(n)
    theta0_N, tau_N = (rng.standard_normal(n).astype(np.float32) * x for x in (1, 0.1))
    tau_N[np.arange(n) % 1024 < 8] *= 20
    rebuilt_N = from_float32(theta0_N + tau_N * np.float32(0.9), "BF16")
    whole, part = (four_sums(theta0_N, tau_N, rebuilt_N, "BF16", k) for k in (1, one_in))
    np.testing.assert_allclose(part[1], whole[1], rtol=0.05 if n > 2048 else 0.3)
    np.testing.assert_allclose(part[3] / part[2], whole[3] / whole[2], rtol=0.01)
    if n > 2048:
        np.testing.assert_allclose(part, whole, rtol=0.2)
        w0_N, theta_N = (from_float32(x, "BF16") for x in (theta0_N, theta0_N + tau_N))
        part, whole = (four_sums_of_bf16(w0_N, theta_N, rebuilt_N, k) for k in (one_in, 1))
        np.testing.assert_allclose(part, whole, rtol=0.2)


def test_a_sample_that_misses_the_task_vector_is_not_taken() -> None:
    theta0_N, tau_N = np.ones(1 << 14, np.float32), np.zeros(1 << 14, np.float32)
    tau_N[3000] = 0.5  # of the strips 8 to 15, another one is looked at
    w0_N = from_float32(theta0_N, "BF16")
    expected = four_sums(theta0_N, tau_N, w0_N, "BF16")
    assert expected.tolist() == [0.25, (1 << 14) + 1.25, 0.25, 0]
    assert four_sums(theta0_N, tau_N, w0_N, "BF16", 8).tolist() == expected.tolist()
    theta_N = from_float32(theta0_N + tau_N, "BF16")
    assert four_sums_of_bf16(w0_N, theta_N, w0_N, 8).tolist() == expected.tolist()


@pytest.mark.parametrize("scale", [1e-15, 1e25])
def test_of_bf16_beyond_float32s_squares(scale: float) -> None:
    w0_N, theta_N = (from_float32(np.full(600, x, np.float32), "BF16") for x in (scale, scale * 2))
    o, h = (to_float32(x, "BF16")[0].astype(float) for x in (w0_N, theta_N))
    expected = [600 * (h - o) ** 2, 600 * h**2, 600 * (h - o) ** 2, 0]
    np.testing.assert_allclose(four_sums_of_bf16(w0_N, theta_N, w0_N), expected, rtol=1e-6)


def test_of_bf16_where_nothing_was_learned() -> None:
    w0_N = from_float32(np.full(600, 2, np.float32), "BF16")
    assert four_sums_of_bf16(w0_N, w0_N, w0_N).tolist() == [0, 2400, 0, 0]
