"""One suite over the kernels of selection and swap: each equals plain torch, bit for bit.

Triton's run in its interpreter where there is no CUDA device, and on the device where there is one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from taskstore.kernels import cpu, dispatch, reference

SIZES = [0, 1, 7, 8, 9, 15, 16, 1023, 1024, 1025, 2047, 2048, 2049, 4099]
WORDS = {torch.int16: np.uint16, torch.int32: np.uint32}
CUDA = torch.cuda.is_available()


def _native_swap(a: Tensor, b: Tensor, d: Tensor, w: Tensor) -> None:
    words = WORDS[w.dtype]
    cpu.swap(a.numpy(), b.numpy(), d.numpy().view(words), w.numpy().view(words))


def _native_select(bits: Tensor, w0: Tensor, w1: Tensor) -> Tensor:
    words = WORDS[w0.dtype]
    found = cpu.select(bits.numpy(), w0.numpy().view(words), w1.numpy().view(words))
    return torch.from_numpy(found.view(f"i{w0.element_size()}"))


def _triton() -> Any:
    return pytest.importorskip("taskstore.kernels.triton", reason="triton is not installed")


def _on_card(tensor: Tensor) -> Tensor:
    return tensor.cuda() if CUDA else tensor


def _triton_swap(a: Tensor, b: Tensor, d: Tensor, w: Tensor) -> None:
    there = _on_card(w)
    _triton().swap(_on_card(a), _on_card(b), _on_card(d), there)
    w.copy_(there)


def _reference_select(bits: Tensor, w0: Tensor, w1: Tensor) -> Tensor:
    return reference.select(reference.unpack(bits, w0.numel()), w0, w1)


Swap = Callable[[Tensor, Tensor, Tensor, Tensor], None]
Select = Callable[[Tensor, Tensor, Tensor], Tensor]
SWAPS: dict[str, Swap] = {
    "reference": reference.swap,
    "native": _native_swap,
    "triton": _triton_swap,
}
SELECTS: dict[str, Select] = {"reference": _reference_select, "native": _native_select}
dtypes = pytest.mark.parametrize("dtype", WORDS)


def _words(n: int, dtype: torch.dtype, seed: int, offset: int = 0) -> Tensor:
    """Random bits (n,), `offset` elements into their memory."""
    generator, limit = torch.Generator().manual_seed(seed), torch.iinfo(dtype)
    whole = torch.randint(limit.min, limit.max, (n + offset,), generator=generator, dtype=dtype)
    return whole[offset:]


def _masks(n: int, seed: int, offset: int = 0) -> Tensor:
    """A random mask that is full, empty and mixed in turn; uint8 (ceil(n / 8),), zero padded."""
    generator = torch.Generator().manual_seed(seed)
    size = (n + 7) // 8
    packed = torch.randint(0, 256, (size + offset,), generator=generator, dtype=torch.uint8)
    kind = torch.arange(size + offset) // 97 % 3
    packed[kind == 1] = 0
    packed[kind == 2] = 255
    if n % 8:
        packed[-1] &= (1 << n % 8) - 1
    return packed[offset:]


def _slow(a: Tensor, b: Tensor, d: Tensor, w: Tensor) -> list[int]:
    """The formula, one weight at a time."""
    found = []
    for i, (old, delta) in enumerate(zip(w.tolist(), d.tolist(), strict=True)):
        bit = (int(a[i // 8]) ^ int(b[i // 8])) >> (i % 8) & 1
        found.append(old ^ delta if bit else old)
    return found


@pytest.mark.parametrize("kernel", SWAPS)
@dtypes
@pytest.mark.parametrize("n", SIZES)
def test_swap_is_the_formula_and_undoes_itself(kernel: str, dtype: torch.dtype, n: int) -> None:
    a, b, d, w = _masks(n, 1), _masks(n, 2), _words(n, dtype, 3), _words(n, dtype, 4)
    b[: a.numel() // 2] = a[: a.numel() // 2]  # nothing to do there
    before, expected = w.clone(), _slow(a, b, d, w)
    SWAPS[kernel](a, b, d, w)
    assert w.tolist() == expected
    SWAPS[kernel](a, b, d, w)
    assert torch.equal(w, before)


@pytest.mark.parametrize("kernel", SWAPS)
@dtypes
@pytest.mark.parametrize("n", [5, 8, 1024, 3001])
def test_views_that_are_not_aligned(kernel: str, dtype: torch.dtype, n: int) -> None:
    """Weights, D and masks may start anywhere; what is beside them stays."""
    around = _words(n + 7, dtype, 5)
    before = around.clone()
    w, d = around[3 : 3 + n], _words(n, dtype, 6, offset=1)
    a, b = _masks(n, 7, offset=3), _masks(n, 8, offset=1)
    expected = _slow(a, b, d, w)
    SWAPS[kernel](a, b, d, w)
    assert w.tolist() == expected
    assert torch.equal(around[:3], before[:3])
    assert torch.equal(around[3 + n :], before[3 + n :])


@pytest.mark.parametrize("kernel", SELECTS)
@dtypes
@pytest.mark.parametrize("n", SIZES)
def test_select_takes_w1_where_the_bit_is_set(kernel: str, dtype: torch.dtype, n: int) -> None:
    bits, w0, w1 = _masks(n, 1, offset=1), _words(n, dtype, 2, offset=1), _words(n, dtype, 3)
    found = SELECTS[kernel](bits, w0, w1)
    expected = [
        new if int(bits[i // 8]) >> (i % 8) & 1 else old
        for i, (old, new) in enumerate(zip(w0.tolist(), w1.tolist(), strict=True))
    ]
    assert found.dtype == dtype
    assert found.tolist() == expected


@given(st.integers(0, 300), st.integers(0, 2**32 - 1))
def test_a_swap_leads_from_one_selection_to_the_other(n: int, seed: int) -> None:
    """select(a) ^ (D & (a ^ b)) = select(b), for every kernel."""
    a, b = _masks(n, seed), _masks(n, seed + 1)
    w0, w1 = _words(n, torch.int16, seed + 2), _words(n, torch.int16, seed + 3)
    for swap in SWAPS.values():
        for select in SELECTS.values():
            w = select(a, w0, w1)
            swap(a, b, w0 ^ w1, w)
            assert torch.equal(w, select(b, w0, w1))


@pytest.mark.parametrize("size", [0, 1, 1023, 1024, 1025, 5000])
def test_masks_that_differ_in_one_bit_differ(size: int) -> None:
    a = np.arange(size, dtype=np.uint8)
    assert not cpu.differ(a, a.copy())
    for place in {0, size // 2, size - 1} if size else ():
        b = a.copy()
        b[place] ^= 0x40
        assert cpu.differ(a, b)


def test_devices_get_their_kernels() -> None:
    swap, native = dispatch.kernel_for(torch.device("cpu"))
    assert swap is cpu.swap
    assert native(torch.zeros(8, dtype=torch.uint8), 4).dtype == np.uint32
    swap, native = dispatch.kernel_for(torch.device("mps"))
    assert swap is reference.swap
    assert native(torch.zeros(8, dtype=torch.uint8), 2).dtype == torch.int16
    swap, _ = dispatch.kernel_for(torch.device("cuda"))
    assert swap is _triton().swap


@pytest.mark.skipif(not CUDA, reason="there is no CUDA device: Triton ran in its interpreter only")
def test_triton_on_a_real_card_with_large_tensors() -> None:
    n = (1 << 24) + 13
    a, b = _masks(n, 1), _masks(n, 2)
    d, w = _words(n, torch.int16, 3), _words(n, torch.int16, 4)
    expected = w.clone()
    reference.swap(a, b, d, expected)
    _triton_swap(a, b, d, w)
    assert torch.equal(w, expected)
