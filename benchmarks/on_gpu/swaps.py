"""The part of gpu_check.py about swaps: the kernels, their oracle, their bytes a second."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.on_gpu.mixed import a_rest
from taskstore.kernels import reference
from taskstore.kernels.device_ops import HostVectors, TorchVectors
from taskstore.kernels.dispatch import kernel_for

SIZES = (1, 7, 8, 9, 2047, 2048, 2049, 100_003)


def kernels(check: Any) -> None:
    """The swap of 16 and 32 bits: every bit as the oracle has it, and its bytes a second."""
    swap, native = kernel_for(check.device)
    random = torch.Generator(check.device).manual_seed(2024)
    for dtype in (torch.int16, torch.int32):
        bits, sizes = torch.iinfo(dtype).bits, (*SIZES, check.elements)
        for n in sizes:
            a_P, b_P, d_N, w_N = _operands(n, dtype, check.device, random)
            wanted_N = w_N.clone()
            reference.swap(a_P, b_P, d_N, wanted_N)
            views = [native(one.view(torch.uint8), bits // 8) for one in (d_N, w_N)]
            swap(native(a_P, 1), native(b_P, 1), *views)
            if not torch.equal(w_N, wanted_N):
                check.add(f"swap, {bits} bits, {n} weights", right=False, note="not the oracle's")
        check.add(f"swap, {bits} bits, {len(sizes)} sizes", right=_all_right(check, "swap"),
                  note="bit for bit the oracle's")  # fmt: skip
        masks = [native(one, 1) for one in (a_P, b_P)]
        moved = int((reference.unpack(a_P ^ b_P, check.elements)).sum())
        own = check.seconds(lambda m=masks, v=views: swap(*m, *v))
        other_N = torch.empty_like(w_N)
        copy = check.seconds(lambda o=other_N, w=w_N: o.copy_(w))
        touched = 3 * moved * bits // 8 + 2 * (check.elements // 8)
        check.add(f"swap kernel, {bits} bits, {check.elements:.3g} weights", seconds=own,
                  against="copy of the weights", other_seconds=copy, nbytes=touched)  # fmt: skip


def _operands(n: int, dtype: torch.dtype, device: torch.device, random: Any) -> list[Tensor]:
    def draw(size: int, kind: torch.dtype) -> Tensor:
        info = torch.iinfo(kind)
        low, high = info.min, info.max + (info.bits < 32)
        return torch.randint(low, high, (size,), generator=random, device=device, dtype=kind)

    bits = [draw((n + 7) // 8, torch.uint8) for _ in range(2)]
    return [*bits, draw(n, dtype), draw(n, dtype)]


def _all_right(check: Any, what: str) -> bool:
    return all(row.right is not False for row in check.rows if row.what.startswith(what))


def rests(check: Any) -> None:
    """Rests of 16 and 32 bits, added on the device: every bit as the CPU's compiled loop has it."""
    columns = max(64, min(4096, int(check.elements) // 64))
    random = np.random.default_rng(2024)
    on_host, on_device = HostVectors(), TorchVectors(check.device)
    for task, (dtype, word) in enumerate({"BF16": "u2", "F16": "u2", "F32": "u4"}.items()):
        vector = a_rest(task, max(1, min(int(check.elements), 1 << 24) // columns), columns)
        below_N = random.integers(0, 1 << 8 * int(word[1]), vector.n).astype(word)
        wanted_N = np.empty_like(below_N)
        on_host.add(vector, below_N, wanted_N, dtype)
        placed = on_device.place(vector, check.device)
        native_N = torch.from_numpy(below_N.view(f"i{word[1]}")).to(check.device)
        w_N = torch.empty_like(native_N)
        own = check.seconds(lambda p=placed, b=native_N, w=w_N, d=dtype: on_device.add(p, b, w, d))
        copy = check.seconds(lambda b=native_N, w=w_N: w.copy_(b))
        on_device.add(placed, native_N, w_N, dtype)
        right = bool((w_N.cpu().numpy().view(word) == wanted_N).all())
        check.add(f"rest, {dtype}, {vector.n:.3g} weights", seconds=own, right=right,
                  against="copy of the weights", other_seconds=copy)  # fmt: skip
