"""Tier exact: a fine-tune's bits, coded against what is below, or against its parent's.

A task with a parent is decoded through a chain: the bits of the first task, which are coded over
the base, then the steps to the next one, and so on. `along` does that for one chunk at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from taskstore.format.codecs import low_rank, stream
from taskstore.format.codecs.chained import Order
from taskstore.format.codecs.deltas import Deltas
from taskstore.format.dtypes import ITEMSIZE, MASKED, numel
from taskstore.format.manifest import Manifest, Task
from taskstore.format.rules import lineage
from taskstore.format.rules.since import CODECS_OF_TIERS
from taskstore.format.section import Layout, encode
from taskstore.format.tiers.base import Bits, BlockSpec, Spot, Step, TierFile, tensors_with
from taskstore.format.tiers.rest import row_length
from taskstore.kernels import cpu

FEW = 1 << 14  # elements
Weights = tuple[Bits, str]  # and their dtype
Along = Callable[[int, Weights, Weights], Bits]  # chunk number, what is below, the base's


class Exact(TierFile):
    name = "exact"

    def layouts(self, manifest: Manifest, task: Task) -> dict[str, Layout]:
        """List the base's rows of its tensors; further rows are private."""
        layouts = {}
        for name, base in tensors_with(manifest, task, "exact").items():
            dtype = task.tensors[name].dtype or base.dtype
            usual = usual_codec(dtype)
            codec = task.codec("exact", usual) if dtype in MASKED else usual
            if usual == "steps" and lineage.has_parents(manifest.tasks, task, name):
                codec = "chained"
            entry = task.tensors[name]
            codec = (entry.codec if entry.kind == "exact" else None) or codec
            layouts[name] = Layout(codec, numel(base.shape), ITEMSIZE[dtype], manifest.chunk)
        return layouts

    def step(self, spot: Spot) -> Step:
        exact = spot.section(self.stem(spot.folder))
        return lambda k, below_N, dtype: exact.chunk(k, cpu.cast(below_N, dtype, spot.dtype))

    def encode(self, theta_N: Bits, below_N: Bits, spec: BlockSpec) -> tuple[list[bytes], Bits]:
        archive, usual = spec.archive and spec.dtype in MASKED, usual_codec(spec.dtype)
        if spec.lineage is not None:
            below_N, w0_N = spec.lineage
            if usual == "steps" and spec.codec is None:
                return encode("chained", theta_N, np.stack([below_N, w0_N])), theta_N
        name = spec.codec or (CODECS_OF_TIERS["exact"] if archive else usual)
        if spec.update is not None:
            given_N = spec.update.predict(spec.start, below_N) if spec.update.rank else below_N
            before = low_rank.lead(spec.update) if not spec.start else []
            coded = [*before, *Deltas().encode(theta_N, given_N)]
            return [stream.store(one) for one in coded], theta_N
        columns = row_length(spec.shape) if name == "deltas" else 0
        if not columns:
            return encode(name, theta_N, below_N), theta_N
        coded = Deltas(columns, spec.start % columns).encode(theta_N, below_N)
        return [stream.store(one) for one in coded], theta_N


def along(spots: Sequence[Spot]) -> Along:
    """Return what rebuilds a chunk of the last task of a chain, given what is below the first.

    The weights stay in the order in which they are coded for as long as that is one order.
    """
    sections = [(spot.section(Exact().stem(spot.folder)), spot.dtype) for spot in spots]

    def rebuilt(k: int, below: Weights, base: Weights) -> Bits:
        (w_N, now), order = below, None
        for section, dtype in sections:
            if order is not None and (dtype != now or section.codec != "chained"):
                w_N, order = order.unsorted(w_N), None
            if section.codec == "steps" and w_N is base[0]:
                order = Order(cpu.cast(*base, dtype))
                w_N = section.first(k, order)
            elif section.codec == "chained":
                w_N = cpu.cast(w_N, now, dtype)
                if order is None:
                    order = Order(cpu.cast(*base, dtype))
                    w_N = order.sorted(w_N)
                w_N = section.follow(k, order, w_N)
            else:
                w_N = section.chunk(k, cpu.cast(w_N, now, dtype))
            now = dtype
        return w_N if order is None else order.unsorted(w_N)

    return rebuilt


def usual_codec(dtype: str) -> str:
    """Return the codec where none is recorded; it is given the weights below."""
    return "steps" if dtype in ("BF16", "F16") else "ulp"


def codec_of_own(dtype: str, numel: int) -> str | None:
    """Return the codec that a writer notes for a tensor that has no parent, at the level `speed`.

    Fewer elements than FEW do not pay for its tables; fp32 gains a twentieth and loads slower.
    """
    return "deltas" if usual_codec(dtype) == "steps" and numel >= FEW else None
