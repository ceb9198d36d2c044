"""Make and code the masks of a block; the common case takes one pass over memory."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from taskstore.errors import NotFinite
from taskstore.format import names
from taskstore.format.section import encode
from taskstore.format.tiers.mask import encode_mask
from taskstore.kernels import bits, cpu, floats, fused
from taskstore.kernels.products import four_sums, four_sums_of_bf16
from taskstore.kernels.tall import tall
from taskstore.merging.methods import Method, Vectors
from taskstore.merging.methods.sum import Sum
from taskstore.merging.task_vectors import Block, read_bits
from taskstore.models import Checkpoint
from taskstore.packing.job import PackJob
from taskstore.packing.writer import CodedPart

F32 = NDArray[np.float32]


class MaskCoder:
    """Makes and codes masks of a family, as its options and its merge method want them."""

    def __init__(self, job: PackJob, method: Method, one_in: int) -> None:
        self._family, self._options, self._imported = job.family, job.options, job.masks
        self._method, self._one_in = method, one_in
        self._one_sided = (job.family.multitask or method).one_sided

    def is_common(self, block: Block) -> bool:
        """Tell whether `all_at_once` does this block: all bf16, merged by sum, masks alone."""
        dtypes = {self._family.tasks[t].tensors[block.name].dtype for t in block.tasks}
        bf16 = dtypes == {"BF16"} and block.info.dtype == "BF16" and block.info.numel > 0
        plain = self._options.tier_names == ("mask",) and self._options.level == "speed"
        ours = not self._imported and not self._family.multitask
        return bf16 and plain and isinstance(self._method, Sum) and ours

    def all_at_once(
        self, block: Block
    ) -> tuple[NDArray[np.uint16], NDArray[np.uint16], NDArray[np.uint16], list[CodedPart]] | None:
        """Return W0 (N,), the tasks' weights (S, N) and W1 (N,), bits, and a mask per task.

        The tasks' lie in memory that the thread's next read uses again.
        None where NaN or Inf is met.
        """
        w0_N, theta_SN = read_bits(self._family, block)
        tasks = [self._family.tasks[t] for t in block.tasks]
        lam_S = np.array([self._options.lam_of(task.name) for task in tasks], np.float32)
        w1_N, bits_SP, chosen_SN, finite = fused.sum_tall_bf16(theta_SN, w0_N, lam_S)
        if not (finite and floats.all_finite(w0_N, "BF16")):
            return None
        parts = []
        for s, task in enumerate(tasks):
            differs = not np.array_equal(theta_SN[s], w0_N)
            streams = encode("bits", bits_SP[s])
            sums = four_sums_of_bf16(w0_N, theta_SN[s], chosen_SN[s], self._one_in)
            parts.append(_part(block, task, streams, bits_SP[s], chosen_SN[s], differs, sums))
        return w0_N, theta_SN, w1_N, parts

    def mask(
        self,
        block: Block,
        t: int,
        tau_N: F32,
        merged_N: F32,
        weights: Vectors,
        w1_N: NDArray[Any],
    ) -> CodedPart:
        """Make and code the mask of task `t`."""
        task = self._family.tasks[t]
        if self._imported:
            bits_P, chosen_N = self._imported.select(block, task.name, tau_N, weights.w0_N, w1_N)
        else:
            lam, one_sided = self._options.lam_of(task.name), self._one_sided
            bits_P, chosen_N = tall(tau_N, merged_N, weights.w0_N, w1_N, lam, one_sided)
        info = task.tensors[block.name]
        rebuilt_N = cpu.cast(chosen_N, block.info.dtype, info.dtype)
        if info.dtype != block.info.dtype and not floats.all_finite(rebuilt_N, info.dtype):
            theta_N = task.read(block.name, block.start, block.stop)
            bad_N = ~np.isfinite(floats.to_float32(rebuilt_N, info.dtype))
            if not np.array_equal(rebuilt_N[bad_N], theta_N[bad_N]):
                raise NotFinite(f"{task.name} rebuilt in {info.dtype}", block.name)
        archive, dtype = self._options.level == "archive", block.info.dtype
        streams = encode_mask(bits_P, weights.w0_N, w1_N, dtype, archive=archive)
        sums = four_sums(weights.theta0_N, tau_N, rebuilt_N, info.dtype, self._one_in)
        return _part(block, task, streams, bits_P, rebuilt_N, bool(sums[2] > 0), sums)


def _part(
    block: Block,
    task: Checkpoint,
    streams: list[bytes],
    bits_P: NDArray[np.uint8],
    rebuilt_N: NDArray[Any],
    differs: bool,
    sums: NDArray[np.float64],
) -> CodedPart:
    ones, info = bits.count(bits_P), task.tensors[block.name]
    return CodedPart(
        names.stem_of("mask", task.name),
        streams,
        task.name,
        rebuilt_N,
        ("mask",),
        ones=ones,
        moved=ones > 0 or differs,
        sums=sums,
        kept=max(0, info.numel - block.start),
        open_ended=info.numel > block.info.numel,
    )
