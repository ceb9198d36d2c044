"""One matrix of several tasks on a GPU: what `MixedMatrix` is on the CPU, over torch's tensors.

All that a task has is known to the kernels by addresses in tables on the device, by the task's
slot. So tasks come and go without a change of what a captured graph holds, until a table grows: it
has room for ROOM slots at first, and twice as many each time.

Legend: M = rows of activations, R = rows and C = columns of the matrix, N = elements of a segment,
S = slots: 0 is the base, a task's is its number + 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
import triton
import triton.language as tl
from numpy.typing import NDArray
from torch import Tensor

from taskstore.kernels import symbols
from taskstore.kernels.device_ops import TorchVector
from taskstore.kernels.mixed import tiles
from taskstore.kernels.mixed.matrix import BASE
from taskstore.kernels.mixed.rest_tiles import FACTORS, FIELDS, SPAN
from taskstore.kernels.torch_dtypes import INTEGERS

ROOM = 32  # slots
BLOCK_R = 64
PER_CORE = 4  # programs of a launch on each multiprocessor, where columns allow it
FLOATS = {torch.bfloat16: tl.bfloat16, torch.float16: tl.float16, torch.float32: tl.float32}


class Rows:
    """The tasks of a step's rows, in memory that stays where it is: a graph may hold it.

    slots_M   int32 (M,): the slot of each row
    order_M   int32 (M,): rows by their tasks;  sorted_M  their slots
    """

    def __init__(self, most: int, device: torch.device) -> None:
        """`most` rows of activations."""
        self._memory = torch.zeros(3, most, dtype=torch.int32, device=device)
        self.show(np.zeros(0, np.int32))

    def show(self, tasks_M: NDArray[np.int32]) -> None:
        """Begin with rows of these tasks, by number. Nothing waits for the device."""
        slots_M, self.count = (tasks_M - BASE).astype(np.int32), len(tasks_M)
        order_M = np.argsort(slots_M, kind="stable").astype(np.int32)
        mine = torch.from_numpy(np.stack([slots_M, order_M, slots_M[order_M]]))
        self._memory[:, : self.count].copy_(mine, non_blocking=True)
        self.slots_M, self.order_M, self.sorted_M = self._memory[:, : self.count]


@dataclass
class _Segment:
    """Whole rows from `first` on, and what tasks make of them."""

    first: int
    rows: int
    w0_N: Tensor
    d_N: Tensor | None
    masks_S: Tensor
    chunks: Tensor  # (S, pieces, FIELDS)
    factors: Tensor  # (S, FACTORS)
    length: int = 1
    rest_columns: int = 1
    rank: int = 0
    kept: dict[int, list[Tensor]] = field(default_factory=dict)  # what addresses refer to

    @property
    def rests(self) -> bool:
        return self.chunks.shape[1] > 0

    def grow(self, slots: int) -> None:
        """Have room for so many slots."""
        while len(self.masks_S) < slots:
            for name in ("masks_S", "chunks", "factors"):
                table = getattr(self, name)
                setattr(self, name, torch.cat([table, torch.zeros_like(table)]))


class DeviceMatrix:
    """W0, D, masks and rests of a matrix, which it refers to and does not copy.

    A size that does not fit is a ValueError.
    """

    def __init__(self, rows: int, columns: int, dtype: torch.dtype, device: torch.device) -> None:
        assert dtype in FLOATS, dtype
        self.rows, self.columns, self.dtype, self.device = rows, columns, dtype, device
        self._segments: list[_Segment] = []
        self._covered = 0

    def segment(self, w0_N: Tensor, d_N: Tensor | None = None) -> int:
        """Add whole rows below those that are there; gives the segment's number."""
        rows, left = divmod(w0_N.numel(), self.columns)
        if left or self._covered + rows > self.rows or (d_N is not None and len(d_N) != len(w0_N)):
            raise ValueError("a segment is of whole rows of the matrix, and D of the same size")
        masks, chunks, factors = (
            torch.zeros(ROOM, *shape, dtype=torch.int64, device=self.device)
            for shape in ((), (0, FIELDS), (FACTORS,))
        )
        self._segments.append(_Segment(self._covered, rows, w0_N, d_N, masks, chunks, factors))
        self._covered += rows
        return len(self._segments) - 1

    def mask(self, segment: int, task: int, bits_P: Tensor) -> None:
        """A task's bits of a segment that has D, LSB first, on the device."""
        one, slot = self._segments[segment], task - BASE
        if one.d_N is None or len(bits_P) != (len(one.w0_N) + 7) // 8:
            raise ValueError("a mask is not of the segment's size")
        one.grow(slot + 1)
        one.masks_S[slot] = bits_P.data_ptr()
        one.kept.setdefault(slot, []).append(bits_P)

    def rest(self, segment: int, task: int, chunks: Sequence[TorchVector]) -> None:
        """What a task adds to a segment, after its mask where it has one.

        Raises ValueError, too, where low-rank factors are not of the matrix's own rows.
        """
        one, slot = self._segments[segment], task - BASE
        length, columns = chunks[0].n, chunks[0].columns
        begins = range(0, len(one.w0_N), length)
        right = sum(chunk.n for chunk in chunks) == len(one.w0_N) and len(begins) == len(chunks)
        for begin, chunk in zip(begins, chunks, strict=right):
            right = right and _is_by_rows(chunk, begin, columns)
        if not right or (one.rests and (length, columns) != (one.length, one.rest_columns)):
            raise ValueError("a rest's chunks are not those of the segment")
        if not one.rests:
            one.length, one.rest_columns = length, columns
            shape = (len(one.masks_S), len(chunks), FIELDS)
            one.chunks = torch.zeros(shape, dtype=torch.int64, device=self.device)
        one.grow(slot + 1)
        kept = one.kept.setdefault(slot, [])
        if any(chunk.low_rank is not None for chunk in chunks):
            factors = _factors(chunks, len(one.w0_N) // columns)
            if columns != self.columns:
                raise ValueError("a low-rank part is of other rows than the matrix")
            one.rank, rank = max(one.rank, len(factors[0])), len(factors[0])
            one.factors[slot] = torch.tensor([*_addresses(factors), rank])
            kept += factors
        for number, chunk in enumerate(chunks):
            parts, packed = _parts(chunk)
            places = _addresses(parts)
            one.chunks[slot, number] = torch.tensor([*places[:2], packed, *places[2:]])
            kept += parts

    def drop(self, task: int) -> None:
        """Forget a task, also one that has nothing here."""
        for one in self._segments:
            if one.kept.pop(task - BASE, None):
                one.masks_S[task - BASE] = 0
                one.chunks[task - BASE] = 0
                one.factors[task - BASE] = 0

    def take(self, which_M: Tensor, slots_M: Tensor) -> Tensor:
        """Rows of the matrix, int64, each as a task has it by its slot, int32; (M, C)."""
        out_MC = torch.empty(len(which_M), self.columns, dtype=self.dtype, device=self.device)
        block = min(1024, triton.next_power_of_2(max(1, out_MC.numel())))
        with self._there():
            for one in self._segments:
                tiles.take[(triton.cdiv(out_MC.numel(), block),)](
                    which_M, slots_M, one.w0_N, one.w0_N if one.d_N is None else one.d_N,
                    one.masks_S, one.chunks, one.factors, out_MC.view(one.w0_N.dtype), one.first,
                    one.rows, self.columns, one.length, one.chunks.shape[1],
                    len(one.masks_S), len(one.w0_N) // one.rest_columns, one.rest_columns,
                    out_MC.numel(),
                    FLOAT=FLOATS[self.dtype], HAS_D=one.d_N is not None, RESTS=one.rests,
                    BLOCK=block,
                )  # fmt: skip
        return out_MC

    def multiply(self, x_MC: Tensor, rows: Rows, bias: Tensor | None = None) -> Tensor:
        """round(x W_t^T + bias_t), (M, R); bias float32 (S, R), or (R,) for all tasks."""
        if self._covered != self.rows or x_MC.shape != (rows.count, self.columns):
            raise ValueError("the matrix lacks rows, or the activations are not the step's")
        y_MR = torch.empty(rows.count, self.rows, dtype=self.dtype, device=self.device)
        bits_MR = y_MR.view(INTEGERS[y_MR.element_size()])
        if rows.count:
            with self._there():
                for one in self._segments:
                    self._launch(one, x_MC.contiguous(), rows, bits_MR[:, one.first :], bias)
        return y_MR

    def _launch(
        self, one: _Segment, x_MC: Tensor, rows: Rows, y_MR: Tensor, bias: Tensor | None
    ) -> None:
        wide = self.dtype == torch.float32 or one.rests
        block_m = 16 if rows.count <= 16 else 32 if wide or rows.count <= 32 else 64
        block_c = 32 if wide else 128 if block_m == 16 else 64
        rank = max(16, triton.next_power_of_2(one.rank)) if one.rank else 0
        grid = triton.cdiv(one.rows, BLOCK_R), triton.cdiv(rows.count, block_m)
        wanted = triton.cdiv(PER_CORE * _cores(self.device), grid[0] * grid[1])
        parts = max(1, min(wanted, self.columns // (2 * block_c)))
        share = triton.cdiv(triton.cdiv(self.columns, parts), block_c) * block_c
        parts = triton.cdiv(self.columns, share)
        shape = (parts if parts > 1 else 0, rows.count, one.rows)
        sums = torch.empty(shape, dtype=torch.float32, device=self.device)
        added = sums if bias is None else bias[..., one.first :]
        stride = self.rows if bias is not None and bias.dim() > 1 else 0
        tiles.multiply[(*grid, parts)](
            x_MC, one.w0_N, one.w0_N if one.d_N is None else one.d_N, one.masks_S, one.chunks,
            one.factors, rows.sorted_M, rows.order_M, y_MR, added, sums, rows.count, one.rows,
            self.columns, one.length, one.chunks.shape[1], len(one.masks_S), one.rest_columns,
            stride, self.rows, share,
            FLOAT=FLOATS[self.dtype], HAS_D=one.d_N is not None, WHOLE=self.columns % 8 == 0,
            RESTS=one.rests, HAS_BIAS=bias is not None, RANK=rank,
            SPLIT=parts > 1, BLOCK_M=block_m, BLOCK_R=BLOCK_R, BLOCK_C=block_c,
        )  # fmt: skip
        if parts > 1:
            tiles.add_parts[(triton.cdiv(one.rows, 256), rows.count)](
                sums, rows.sorted_M, rows.order_M, y_MR, added, parts, rows.count, one.rows,
                stride, self.rows, FLOAT=FLOATS[self.dtype], HAS_BIAS=bias is not None,
                BLOCK_R=256,
            )  # fmt: skip

    def _there(self) -> torch.cuda.device:
        return torch.cuda.device(self.device if self.device.type == "cuda" else -1)


def _cores(device: torch.device) -> int:
    if device.type != "cuda":
        return 2
    return torch.cuda.get_device_properties(device).multi_processor_count


def _is_by_rows(chunk: TorchVector, begin: int, columns: int) -> bool:
    """Whether a chunk's rows are those of its tensor; a vector's chunks are a row each."""
    first = begin % columns
    if chunk.first + chunk.n <= chunk.columns:
        return first + chunk.n <= columns
    return (chunk.columns, chunk.first) == (columns, first)


def _addresses(tensors: Sequence[Tensor]) -> list[int]:
    return [tensor.data_ptr() for tensor in tensors]


def _parts(chunk: TorchVector) -> tuple[list[Tensor], int]:
    """What the kernel reads of a chunk, and how many symbols are in a byte."""
    device = chunk.symbols.device
    digits = torch.from_numpy(symbols.digits(chunk.radix)).to(device)
    table = chunk.table_256K.masked_fill(digits == chunk.radix - 1, torch.nan)
    spans = torch.arange(0, chunk.n + SPAN, SPAN, device=device)
    before = torch.searchsorted(chunk.where_E, spans).int()
    parts = [chunk.symbols, table, chunk.steps_R, chunk.where_E, chunk.points_E, before]
    return parts, digits.shape[1]


def _factors(chunks: Sequence[TorchVector], rows: int) -> list[Tensor]:
    """Left (rank, rows) and right (rank, columns) in bfloat16, which is exact, and scales (rows,).

    Raises ValueError unless all chunks have rows of one part.
    """
    parts = [chunk.low_rank for chunk in chunks]
    first = parts[0]
    if first is None or any(part is None or part[1] is not first[1] for part in parts):
        raise ValueError("a low-rank part is not one of all chunks")
    device, rank = first[1].device, len(first[0])
    left = torch.zeros(rank, rows, dtype=torch.bfloat16, device=device)
    scales, begin = torch.zeros(rows, device=device), 0
    for chunk, part in zip(chunks, parts, strict=True):
        assert part is not None
        row = begin // chunk.columns
        span = slice(row, row + part[0].shape[1])
        left[:, span], scales[span] = part[0].to(torch.bfloat16), part[3]
        begin += chunk.n
    right = torch.bitwise_left_shift(first[1].int(), first[2][:, None]).to(torch.bfloat16)
    return [left, right, scales]
