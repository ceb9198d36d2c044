"""Tier mask: a bit per weight that selects W1, the multi-task model's weight, or W0, the base's.

Masks are packed LSB first, the last byte padded with zeros (SPEC.md). At the archive level they
are coded given how far W1 is from W0.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from taskstore.format import names
from taskstore.format.dtypes import numel
from taskstore.format.layouts import multitask_layouts
from taskstore.format.manifest import Manifest, Task
from taskstore.format.section import Layout, encode
from taskstore.format.tiers.base import Bits, Spot, Step, TierFile, tensors_with
from taskstore.kernels import cpu, floats


class Mask(TierFile):
    name = "mask"

    def layouts(self, manifest: Manifest, task: Task) -> dict[str, Layout]:
        codec = task.codec("mask", "bits")
        return {
            name: Layout(codec, numel(base.shape), 1, manifest.chunk)
            for name, base in tensors_with(manifest, task, "mask").items()
        }

    def files(self, manifest: Manifest, task: str) -> dict[str, Mapping[str, Layout]]:
        return {names.MULTITASK: multitask_layouts(manifest), **super().files(manifest, task)}

    def step(self, spot: Spot) -> Step:
        multitask, mask = spot.section(names.MULTITASK), spot.section(self.stem(spot.folder))

        def selected(k: int, w0_N: Bits, dtype: str) -> Bits:
            w1_N = multitask.chunk(k, w0_N)
            given_N = moved(w0_N, w1_N, dtype) if mask.guided else None
            return cpu.cast(cpu.select(mask.chunk(k, given_N), w0_N, w1_N), dtype, spot.dtype)

        return selected


def encode_mask(
    bits_P: NDArray[np.uint8], w0_N: Bits, w1_N: Bits, dtype: str, *, archive: bool
) -> list[bytes]:
    """Code the packed bits of a block, P = ceil(N / 8) bytes; returns stored streams."""
    if archive:
        return encode("guided", bits_P, moved(w0_N, w1_N, dtype))
    return encode("bits", bits_P)


def moved(w0_N: Bits, w1_N: Bits, dtype: str) -> Bits:
    """Return F32(W1) - F32(W0) as bits (N,): what masks are coded given, at the archive level."""
    with np.errstate(invalid="ignore"):  # Inf less Inf
        moved_N = floats.to_float32(w1_N, dtype) - floats.to_float32(w0_N, dtype)
    return moved_N.view(np.uint32)
