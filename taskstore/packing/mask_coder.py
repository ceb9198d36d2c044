"""Make and code the masks of a block; the common case takes one pass over memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taskstore.errors import NotFinite
from taskstore.format import names
from taskstore.format.section import encode_all
from taskstore.format.tiers.mask import encode_mask
from taskstore.kernels import bits, cpu, floats, fused
from taskstore.kernels.products import four_sums
from taskstore.kernels.tall import tall
from taskstore.merging.methods import Method, Vectors
from taskstore.merging.methods.sum import Sum
from taskstore.merging.task_vectors import Block, read_bits
from taskstore.models import Checkpoint
from taskstore.packing.job import PackJob
from taskstore.packing.writer import CodedPart

F32 = NDArray[np.float32]


@dataclass(frozen=True)
class CommonBlock:
    """A block that was read and coded in one go.

    w0_N       bits of the base
    theta_SN   of the tasks, in memory that the thread's next read uses again
    multitask  the stored streams of W1
    parts      a mask per task
    """

    w0_N: NDArray[np.uint16]
    theta_SN: NDArray[np.uint16]
    multitask: list[bytes]
    parts: list[CodedPart]


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

    def all_at_once(self, block: Block) -> CommonBlock | None:
        """Read, merge, mask and code a block; None where NaN or Inf is met."""
        w0_N, theta_SN = read_bits(self._family, block)
        tasks = [self._family.tasks[t] for t in block.tasks]
        lam_S = np.array([self._options.lam_of(task.name) for task in tasks], np.float32)
        found = fused.sum_tall_bf16(theta_SN, w0_N, lam_S, self._one_in)
        if found is None:
            return None
        masks = [("bits", bits_P, None) for bits_P in found.bits_SP]
        multitask, *coded = encode_all([("ulp", found.w1_N, w0_N), *masks])
        ones_S, differs_S = found.ones_S.tolist(), found.differs_S.tolist()
        parts = [
            _part(block, task, coded[s], ones_S[s], found.chosen_SN[s], differs_S[s], sums)
            for s, (task, sums) in enumerate(zip(tasks, found.sums_S4, strict=True))
        ]
        return CommonBlock(w0_N, theta_SN, multitask, parts)

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
        ones = bits.count(bits_P)
        return _part(block, task, streams, ones, rebuilt_N, bool(sums[2] > 0), sums)


def _part(
    block: Block,
    task: Checkpoint,
    streams: list[bytes],
    ones: int,
    rebuilt_N: NDArray[Any],
    differs: bool,
    sums: NDArray[np.float64],
) -> CodedPart:
    info = task.tensors[block.name]
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
