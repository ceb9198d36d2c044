"""One suite over the kernels: compiled loops equal plain torch, bit for bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from taskstore.kernels import bits, cpu, floats, fused, reference
from taskstore.kernels.products import four_sums_of_bf16
from taskstore.kernels.tall import tall
from taskstore.merging.methods.sum import Sum
from tests.support.blocks import vectors

DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}
SIZES = [0, 1, 7, 8, 9, 1023, 1024, 1025, 4099]
VIEW = {2: torch.int16, 4: torch.int32}


def to_bits(tensor: Tensor) -> NDArray[Any]:
    size = tensor.element_size()
    return tensor.view(VIEW[size]).numpy().view(f"<u{size}")


def weights(n: int, dtype: str, seed: int, scale: float = 0.02) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(n, generator=generator) * scale).to(DTYPES[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("lam", [0.0, 0.4, 1.0])
def test_the_whole_chain(dtype: str, n: int, lam: float) -> None:
    theta0 = weights(n, dtype, 1)
    thetas = [(theta0.float() + weights(n, "F32", s, 0.003)).to(DTYPES[dtype]) for s in (2, 3)]
    thetas[1][: n // 3] = theta0[: n // 3]  # frozen
    theta0_f32 = floats.to_float32(to_bits(theta0), dtype)
    tau = np.empty((2, n), np.float32)
    for s, theta in enumerate(thetas):
        cpu.task_vector(to_bits(theta), dtype, theta0_f32, tau[s])
        assert torch.equal(torch.from_numpy(tau[s]), reference.task_vector(theta, theta0))
    merged = tau[0] + tau[1]
    w0 = to_bits(theta0)
    w1 = cpu.add(theta0_f32, merged, w0, dtype)
    w1_reference = reference.add(theta0, torch.from_numpy(merged))
    assert (w1 == to_bits(w1_reference)).all()
    for s in range(2):
        packed, chosen = tall(tau[s], merged, w0, w1, lam)
        args = torch.from_numpy(tau[s]), torch.from_numpy(merged), theta0, w1_reference
        mask = reference.tall(*args, lam)
        assert (bits.unpack(packed, n) == mask.numpy()).all()
        expected = to_bits(reference.select(mask, theta0, w1_reference))
        assert (chosen == expected).all()
        assert (cpu.select(packed, w0, w1) == expected).all()
        assert n == 0 or bits.padding_is_zero(packed, n)


@pytest.mark.parametrize("n", SIZES[1:])
@pytest.mark.parametrize("tasks", [1, 2, 5])
def test_the_fused_pass_equals_the_general_way(n: int, tasks: int) -> None:
    """W1, masks, what they select and its sums, bit for bit; what is not finite is noticed."""
    theta0 = weights(n, "BF16", 1)
    thetas = [
        to_bits((theta0.float() + weights(n, "F32", s, 0.002)).bfloat16()) for s in range(tasks)
    ]
    w0, lam = to_bits(theta0), np.linspace(0.2, 0.6, tasks, dtype=np.float32)
    thetas[0] = w0.copy() if tasks > 1 else thetas[0]  # a task may be the base
    theta0_f32, tau = floats.to_float32(w0, "BF16"), np.empty((tasks, n), np.float32)
    for s in range(tasks):
        assert cpu.task_vector(thetas[s], "BF16", theta0_f32, tau[s])
    merged = Sum().merge(vectors(tau, np.arange(tasks)))
    for one_in in (1, 8):
        found = fused.sum_tall_bf16(np.stack(thetas), w0, lam, one_in)
        assert found
        assert (found.w1_N == cpu.add(theta0_f32, merged, w0, "BF16")).all()
        for s in range(tasks):
            packed, chosen = tall(tau[s], merged, w0, found.w1_N, float(lam[s]))
            assert (found.bits_SP[s] == packed).all()
            assert (found.chosen_SN[s] == chosen).all()
            assert found.ones_S[s] == bits.count(packed)
            assert found.differs_S[s] == (not np.array_equal(thetas[s], w0))
            sums = four_sums_of_bf16(w0, thetas[s], chosen, one_in)
            assert found.sums_S4[s].tolist() == sums.tolist()
    for value in (0x7F80, 0xFF80, 0x7FC0):
        for which in range(tasks + 1):
            broken, base = np.stack(thetas), w0.copy()
            (base if which == tasks else broken[which])[n // 2] = value
            assert fused.sum_tall_bf16(broken, base, lam) is None
        same = np.stack([*thetas, w0])
        same[:, n // 2] = value
        assert fused.sum_tall_bf16(same[:-1], same[-1], lam) is None


@given(st.lists(st.integers(0, 2**32 - 1), max_size=50))
def test_rounding_to_16_bits_is_ieee(patterns: list[int]) -> None:
    values = np.array(patterns, np.uint32).view(np.float32)
    for dtype in ("BF16", "F16"):
        ours = floats.from_float32(values, dtype)
        theirs = torch.from_numpy(values.copy()).to(DTYPES[dtype])
        nan = torch.isnan(theirs).numpy()
        assert (ours[~nan] == to_bits(theirs)[~nan]).all()
        assert np.isnan(floats.to_float32(ours, dtype)[nan]).all()


@pytest.mark.parametrize("dtype", ["BF16", "F16"])
def test_widening_keeps_every_value(dtype: str) -> None:
    every = np.arange(1 << 16, dtype=np.uint16)
    wide = torch.from_numpy(floats.to_float32(every, dtype))
    expected = torch.from_numpy(every.view(np.int16)).view(DTYPES[dtype]).float()
    assert torch.equal(torch.nan_to_num(wide, 1e30), torch.nan_to_num(expected, 1e30))


@pytest.mark.parametrize("dtype", DTYPES)
def test_overflow_keeps_the_base(dtype: str) -> None:
    largest = torch.tensor([torch.finfo(DTYPES[dtype]).max, -1.0]).to(DTYPES[dtype])
    step = np.array([torch.finfo(DTYPES[dtype]).max, 0.5], np.float32)
    w0 = to_bits(largest)
    w1 = cpu.add(floats.to_float32(w0, dtype), step, w0, dtype)
    assert w1[0] == w0[0]
    assert (w1 == to_bits(reference.add(largest, torch.from_numpy(step)))).all()


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32", "F64", "C64"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_found(dtype: str, value: float) -> None:
    numpy_dtype = {"F64": np.float64, "C64": np.complex64}.get(dtype, np.float32)
    clean: NDArray[Any] = np.ones(100, numpy_dtype)
    dirty = clean.copy()
    dirty[77] = value
    width = {"F64": 8, "C64": 8}
    for array, finite in ((clean, True), (dirty, False)):
        if dtype in width:
            raw: NDArray[Any] = array.view(f"<u{width[dtype]}")
        else:
            raw = floats.from_float32(array.astype(np.float32), dtype)
        assert floats.all_finite(raw, dtype) is finite
    assert floats.all_finite(np.full(4, 0xFF, np.uint8), "U8")


def test_zeros_of_both_signs_differ() -> None:
    w0 = np.array([0x0000, 0x8000], np.uint16)
    w1 = np.array([0x8000, 0x8000], np.uint16)
    tau = np.ones(2, np.float32)
    packed, chosen = tall(tau, tau, w0, w1, 0.4)
    assert packed.tolist() == [1]
    assert chosen.tolist() == [0x8000, 0x8000]
