"""The kernel's order of matrices: there and back, weights and masks alike."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from taskstore.kernels import reference
from taskstore.swap.binding import Live
from tests.serving.support.engines import need_vllm

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]
SHAPES = [(16, 32), (48, 64), (112, 96), (768, 256), (4096, 320)]


@pytest.fixture(autouse=True)
def kernels() -> None:
    need_vllm()
    import vllm._custom_ops  # noqa: F401

    if not torch.cpu._is_avx512_bf16_supported():
        pytest.skip("this processor does not multiply bf16")
    if torch.cpu._is_amx_tile_supported():
        torch.cpu._init_amx()


def some_bits(*shape: int, seed: int) -> Tensor:
    chance = torch.Generator().manual_seed(seed)
    return torch.randint(-(1 << 15), 1 << 15, shape, generator=chance, dtype=torch.int16)


@pytest.mark.parametrize("shape", SHAPES)
def test_there_and_back(shape: tuple[int, int]) -> None:
    from taskstore_serving.weights.kernel_order import KernelOrder, fits

    packed, bits = KernelOrder({"w": shape}), some_bits(*shape, seed=1)
    assert fits(bits.view(torch.bfloat16))
    moved = bits.clone()
    packed.reorder("w", moved)
    whole = torch.ops._C.convert_weight_packed(bits.view(torch.bfloat16)).view(torch.int16)
    assert torch.equal(moved, whole)
    live = Live(("w",), moved.view(torch.bfloat16))
    assert torch.equal(packed.plain(live).tensor.view(torch.int16), bits)
    assert torch.equal(moved, whole)
    packed.restore("w", moved)
    assert torch.equal(moved, bits)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_swap_of_reordered_weights_is_the_reordered_swap(shape: tuple[int, int]) -> None:
    from taskstore_serving.weights.kernel_order import KernelOrder

    packed = KernelOrder({"w": shape})
    w_N, d_N = (some_bits(*shape, seed=s).view(-1) for s in (2, 3))
    mask_P = torch.from_numpy(
        np.packbits(some_bits(*shape, seed=4).numpy().reshape(-1) > 0, bitorder="little")
    )
    nothing_P = torch.zeros_like(mask_P)
    wanted = w_N.clone()
    reference.swap(nothing_P, mask_P, d_N, wanted)
    packed.reorder("w", wanted)
    for memory in (w_N, d_N):
        packed.reorder("w", memory)
    packed.reorder_mask("w", mask_P)
    reference.swap(nothing_P, mask_P, d_N, w_N)
    assert torch.equal(w_N, wanted)


def test_what_the_kernel_does_not_take() -> None:
    from taskstore_serving.weights.kernel_order import fits

    for shape in ((33, 64), (64, 48), (64,)):
        assert not fits(torch.zeros(shape, dtype=torch.bfloat16))
    assert not fits(torch.zeros(64, 64))


def test_mixed_steps_know_the_order() -> None:
    from taskstore_serving.weights.kernel_order import in_slabs

    assert in_slabs()
