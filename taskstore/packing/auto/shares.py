"""Bits of each task where a family's rests are to take so many on average.

A longer task vector gets more: its error at equal bits is larger, and a network minds that. With
equal bits the longest tasks of a family lose most, by far (docs/fidelity.md).
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from taskstore.format.tiers.rest import BITS
from taskstore.models.family import Family
from taskstore.packing.auto.sample import Piece, pieces, take
from taskstore.packing.job import PackJob
from taskstore.packing.options import LEAST, PackOptions

POWER = 0.6  # of a task vector's length: its share of the bits
UNITS = 256  # of a bit, in which they are told
MOST = BITS - 1 / UNITS  # as far as rests have a part of low rank, of which bits can be asked


def shared(job: PackJob) -> PackOptions:
    """Return the options with bits of each rest below two bits that has none of its own.

    Their mean is what was asked for all. Raises NotFinite.
    """
    family, given = job.family, job.options
    mine = [
        t
        for t, task in enumerate(family.tasks)
        if given.tiers_of(task.name) == ("rest",) and task.name not in given.residuals
    ]
    if len(mine) < 2 or given.bits_of("") >= BITS:
        return given
    job.meter.stage("measuring", family.base.name)
    sample = pieces(family, job.plan, given.chunk)
    lengths = []
    for t in mine:
        some = [piece for piece in sample if t in piece.tasks]
        lengths.append(math.sqrt(sum(job.executor.map(_squares, (family, t), some))))
    each = zip(mine, split(given.bits_of(""), lengths), strict=True)
    bits = {family.tasks[t].name: one for t, one in each}
    return replace(given, residuals={**given.residuals, **bits})


def split(mean: float, lengths: list[float]) -> list[float]:
    """Return bits by the lengths of task vectors, from LEAST to MOST, and of that mean."""
    powers = np.maximum(np.array(lengths), 1e-30) ** POWER
    low, high = 0.0, MOST / float(powers.min())
    for _ in range(100):
        middle = (low + high) / 2
        enough = float((middle * powers).clip(LEAST, MOST).mean()) >= mean
        low, high = (low, middle) if enough else (middle, high)
    bits: list[float] = (np.rint((high * powers).clip(LEAST, MOST) * UNITS) / UNITS).tolist()
    return [min(max(one, LEAST), MOST) for one in bits]


def _squares(shared: tuple[Family, int], piece: Piece) -> float:
    tau_N = take(shared, piece).missing_N
    return piece.weight * float(np.einsum("i,i->", tau_N, tau_N, dtype=np.float64))
