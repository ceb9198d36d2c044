"""The part of gpu_check.py about steps of several tasks: the kernels, their oracle, their time."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import cycle
from typing import Any

import numpy as np
import torch
import triton
from torch import Tensor
from torch.nn import functional

from benchmarks.swapping.clock import is_cuda
from taskstore.kernels import reference
from taskstore.kernels.device_ops import TorchVectors
from taskstore.kernels.dispatch import kernel_for
from taskstore.kernels.mixed.device_matrix import DeviceMatrix, Rows
from taskstore.kernels.mixed.matrix import BASE
from taskstore.kernels.quantise import Points, Quantised
from taskstore.kernels.quantise import Rows as Steps
from taskstore.kernels.symbols import pack
from taskstore.kernels.torch_dtypes import DTYPES, INTEGERS

SHAPES = ((37, 9), (70, 264), (1, 33), (256, 512))
MOST = 64  # tasks
FAR = {torch.bfloat16: 2**-8, torch.float16: 2**-10, torch.float32: 1e-5}


class Family:
    """A matrix and tasks of it: even ones with a mask, where `rests` odd ones with a rest."""

    def __init__(
        self, shape: tuple[int, int], dtype: torch.dtype, device: torch.device, tasks: int,
        rests: bool,
    ) -> None:  # fmt: skip
        (rows, columns), self.shape, self.dtype, self.device = shape, shape, dtype, device
        random = torch.Generator(device).manual_seed(rows * columns)
        draw = [
            (torch.randn(rows * columns, generator=random, device=device) * 0.02).to(dtype)
            for _ in range(2)
        ]
        self.w0_N, w1_N = (one.view(INTEGERS[one.element_size()]) for one in draw)
        self.d_N = self.w0_N ^ w1_N
        self.matrix, self.masks = DeviceMatrix(rows, columns, dtype, device), list[Tensor]()
        self.rests: dict[int, Quantised] = {}
        self.matrix.segment(self.w0_N, self.d_N)
        for task in range(tasks):
            size = (rows * columns + 7) // 8
            bits_P = torch.randint(0, 256, (size,), generator=random, device=device).to(torch.uint8)
            if rests and task % 2:
                self.rests[task] = a_rest(task, rows, columns)
                placed = TorchVectors(device).place(self.rests[task], device)
                self.matrix.rest(0, task, [placed])
                bits_P = torch.zeros_like(bits_P)
            else:
                self.matrix.mask(0, task, bits_P)
            self.masks.append(bits_P)

    def weights(self, task: int) -> Tensor:
        """A task's weights by plain torch, (R, C)."""
        w_N = self.w0_N.clone()
        if task != BASE:
            reference.swap(torch.zeros_like(self.masks[task]), self.masks[task], self.d_N, w_N)
        if task in self.rests:
            vector = TorchVectors(self.device)
            placed = vector.place(self.rests[task], self.device)
            vector.add(placed, w_N.clone(), w_N, DTYPES[self.dtype])
        return w_N.view(self.dtype).view(self.shape)

    def rows(self, tasks_M: Sequence[int]) -> Rows:
        found = Rows(len(tasks_M), self.device)
        found.show(np.array(tasks_M, np.int32))
        return found

    def activations(self, rows: int) -> Tensor:
        random = torch.Generator(self.device).manual_seed(rows)
        size = (rows, self.shape[1])
        return torch.randn(size, generator=random, device=self.device).to(self.dtype)


def a_rest(task: int, rows: int, columns: int) -> Quantised:
    """A rest with escapes, as a checkpoint's tensor has it, in one chunk."""
    random, n, radix = np.random.default_rng(task), rows * columns, (4, 6, 16, 256)[task // 2 % 4]
    z_N = random.integers(0, radix - 1, n, np.uint16)
    z_N[random.integers(0, n, n // 50 + 1)] = radix + 1
    where_E = np.flatnonzero(z_N >= radix - 1).astype(np.uint32)
    points = Points(np.arange(0, 256, 32, dtype=np.uint8), 0)
    steps = Steps(columns, 0, -24, random.integers(1, 64, rows).astype(np.uint8))
    return Quantised(n, radix, pack(z_N, radix)[0], steps, points, where_E, z_N[where_E])


def mixed(check: Any) -> None:
    """Steps of several tasks: weights to the bit, products within float32 sums, graphs, times."""
    if not is_cuda(str(check.device)) and not triton.knobs.runtime.interpret:
        check.add("mixed", note="needs a GPU, or TRITON_INTERPRET=1")
        return
    few = not is_cuda(str(check.device))  # the interpreter takes its time
    for dtype in FAR:
        for shape in SHAPES[:2] if few else SHAPES:
            _prove(check, Family(shape, dtype, check.device, 5, rests=True))
    right = all(row.right is not False for row in check.rows if row.what.startswith("mixed"))
    check.add(f"mixed, all sizes in {len(FAR)} dtypes", right=right,
              note="weights bit for bit, products within float32 sums")  # fmt: skip
    side = max(64, int(math.sqrt(check.elements)) // 64 * 64)
    large = Family((side, side), torch.bfloat16, check.device, 6 if few else MOST, rests=False)
    _graph(check, large)
    _times(check, large, "masks")
    side = min(side, 4096)
    _times(check, Family((side, side), torch.bfloat16, check.device, 6, rests=True), "rests")


def _prove(check: Any, family: Family) -> None:
    """Say where a row or a product is not that of its task's weights."""
    rows, columns = family.shape
    label = f"mixed, {DTYPES[family.dtype]}, {rows} x {columns}"
    every, tasks = torch.arange(rows, device=check.device), list(range(BASE, 5))
    wanted = {task: family.weights(task) for task in tasks}
    for task in tasks:
        slots_M = torch.full((rows,), task - BASE, dtype=torch.int32, device=check.device)
        bits = INTEGERS[family.w0_N.element_size()]
        found = family.matrix.take(every, slots_M)
        if not torch.equal(found.view(bits), wanted[task].contiguous().view(bits)):
            check.add(f"{label}, weights of {task}", right=False, note="not the oracle's")
    for count in (1, 7) if not is_cuda(str(check.device)) else (1, 7, 40, 300):
        tasks_M = [tasks[i * 5 % len(tasks)] for i in range(count)]
        x_MC = family.activations(count)
        found = family.matrix.multiply(x_MC, family.rows(tasks_M)).double()
        exact = torch.stack(
            [wanted[t].double() @ x for t, x in zip(tasks_M, x_MC.double(), strict=True)]
        )
        if bool(((found - exact).abs() > FAR[family.dtype] * (exact.abs() + 1)).any()):
            check.add(f"{label}, {count} rows", right=False, note="not the oracle's")


def _graph(check: Any, family: Family) -> None:
    """A captured product, replayed for other tasks: each row by the task that it has by then."""
    if not is_cuda(str(check.device)):
        check.add("mixed: CUDA graph", note="needs a GPU")
        return
    x_MC, rows = family.activations(8), family.rows([0] * 8)
    family.matrix.multiply(x_MC, rows)  # compiles
    torch.cuda.synchronize(check.device)
    graph, right = torch.cuda.CUDAGraph(), True
    with torch.cuda.graph(graph):
        y_MR = family.matrix.multiply(x_MC, rows)
    for tasks in ([BASE] * 8, [3, 1, BASE, 2, 2, 9, 3, 1]):
        rows.show(np.array(tasks, np.int32))
        graph.replay()
        torch.cuda.synchronize(check.device)
        right = right and torch.equal(y_MR, family.matrix.multiply(x_MC, family.rows(tasks)))
    check.add("mixed: CUDA graph, replayed for other tasks", right=right)


def _times(check: Any, family: Family, kind: str) -> None:
    """A step of T tasks beside T products of whole weights, with swaps between them and without."""
    swap, _ = kernel_for(check.device)  # takes tensors where the device is a GPU
    own_N = family.w0_N.clone()
    twin = [one.view(family.dtype).view(family.shape) for one in (own_N, family.w0_N)]
    steps, repeat = [(1, 1), (6, 1)], 1
    if is_cuda(str(check.device)):
        repeat = 5
        steps += [(2, 1), (16, 1), (MOST, 1), (6, 2), (6, 256)]
    for tasks, each in (step for step in steps if step[0] <= len(family.masks)):
        rows = family.rows([i % tasks for i in range(tasks * each)])
        x_MC, one_MC = family.activations(tasks * each), family.activations(each)
        mixed = check.seconds(lambda x=x_MC, r=rows: family.matrix.multiply(x, r), repeat)
        order = cycle(twin)  # no weight is in a cache when it is read again

        def products(n: int = tasks, x: Tensor = one_MC, weights: Any = order) -> None:
            for _ in range(n):
                functional.linear(x, next(weights))

        def turns(n: int = tasks, x: Tensor = one_MC) -> None:
            for task in range(n):
                swap(family.masks[task - 1], family.masks[task], family.d_N, own_N)
                functional.linear(x, twin[0])

        nbytes = 2 * own_N.nbytes + tasks * own_N.numel() // 8
        label = f"mixed, {kind}, {tasks} tasks of {each}, {family.shape[0]} x {family.shape[1]}"
        others: dict[str, Callable[[], None]] = {"as many products": products}
        if kind == "masks" and is_cuda(str(check.device)):
            others["swaps and products"] = turns
        for against, other in others.items():
            check.add(label, seconds=mixed, against=against, other_seconds=check.seconds(other),
                      nbytes=nbytes if kind == "masks" else None)  # fmt: skip
