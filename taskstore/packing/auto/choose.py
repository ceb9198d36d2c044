"""Choose what each task needs: the fewest bits whose error on a sample is small enough.

The error is that of format/fidelity.py. A rest is tried at a handful of rates; masks once, for the
whole family; what no rest holds is kept exact. What was packed is measured over all weights, so
that a sample that was wrong is found out (packing/driver.py).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from taskstore.executors import Executor
from taskstore.format.fidelity import largest_error, of_sums
from taskstore.format.manifest import Sums
from taskstore.packing.auto.mask_trial import measured
from taskstore.packing.auto.sample import Taken, pieces, rest_bytes, rest_sums, take
from taskstore.packing.job import PackJob, with_options
from taskstore.packing.options import AUTO, FINEST, LEAST, PackOptions

UNITS = 32  # of a bit: how finely bits are searched
SAFE = 4  # units more than the error says, where there is no third try
MARGIN = 0.985  # of the largest error is what a sample may show
GUESSES = 4  # then the interval is halved
TINY = 1e-9  # an error that a guess may be made from
OTHERS, PART = ("0.02", "B"), 8  # errors that are tried as well, on one in PART of the sample


@dataclass(frozen=True)
class Choice:
    """Options with tiers and bits that are near enough, and what is to be said of them.

    others   tiers that `pack` may be asked for instead -> about their bytes, over these
    """

    options: PackOptions
    notes: list[str]
    others: Mapping[str, float] = field(default_factory=dict)


def choose(job: PackJob, refused: Collection[tuple[str, str]] = ()) -> Choice:
    """Choose tiers and bits.

    job       of a pack with rests, whose options ask for a largest error
    refused   tasks and tiers that were packed so, and were not near enough
    Raises NotFinite.
    """
    family, given, most = job.family, job.options, job.options.largest_error
    assert most is not None
    sample = pieces(family, job.plan, given.chunk)
    bits, size, others = dict[str, float](), 0.0, dict.fromkeys(OTHERS, 0.0)
    for t, task in enumerate(family.tasks):
        job.meter.stage("choosing", task.name)
        mine = [piece for piece in sample if t in piece.tasks]
        taken = list(job.executor.map(take, (family, t), mine))
        found = given.residuals.get(task.name) or fewest(taken, most * MARGIN, job.executor)
        if found and (task.name, "rest") not in refused:
            bits[task.name] = found
            own = sum(job.executor.map(rest_bytes, found, taken))
            size += own
            for asked in OTHERS:
                most_of = largest_error(asked) / most
                others[asked] += own * _ratio(taken, found, most_of, job.executor)
    lost = [task.name for task in family.tasks if task.name not in bits]
    joins = family.aliases is not None  # a store, which has its multi-task model, or none
    if not (joins or given.residuals or lost or refused or given.tier_names[1:]):
        masked = with_options(job, given.chosen("mask", {}, {}))
        if masks := measured(masked, sample, most * MARGIN, size):
            said = f"masks: as near as rests are, in about {masks.size / size:.0%} of their bytes"
            return Choice(masked.options, [said])
    notes = [f"{name}: kept exact, for no rest of {FINEST:g} bits is near enough" for name in lost]
    if not bits:
        return Choice(given.chosen("exact", {}, {}), notes)
    tiers = ",".join(given.tier_names)
    others = {f"{AUTO}:{asked}": count / size for asked, count in others.items()}
    return Choice(given.chosen(tiers, bits, dict.fromkeys(lost, "exact")), notes, others)


def _ratio(taken: Sequence[Taken], bits: float, errors: float, executor: Executor) -> float:
    """Return about the bytes of a rest with `errors` times the error, over one of `bits`.

    A part of the sample tells enough.
    """
    some = taken[::PART]
    other = fewest(some, errors * error_of(bits, some, executor), executor) or FINEST
    of_other, ours = (sum(executor.map(rest_bytes, one, some)) for one in (other, bits))
    return of_other / max(1.0, ours)


def error_of(bits: float, taken: Sequence[Taken], executor: Executor) -> float:
    """Return the error on a sample of a rest of so many bits."""
    sums = sum(executor.map(rest_sums, bits, taken), np.zeros(4))
    return of_sums(Sums.of(sums.tolist())).error or 0.0


def finer(bits: float, error: float, most: float) -> float:
    """Return the bits of a rest whose error was too large with `bits`."""
    return min(
        FINEST, bits + (math.ceil(UNITS * math.log2(error / max(most, TINY))) + SAFE) / UNITS
    )


def fewest(taken: Sequence[Taken], most: float, executor: Executor) -> float | None:
    """Return the fewest bits, in UNITS, at which the error is at most `most`; None: there are none.

    The error about halves with each bit: that says where to look next, until it is known to the
    unit.
    """
    low, high, k = int(LEAST * UNITS), int(FINEST * UNITS) + 1, 2 * UNITS
    for tries in range(2 * UNITS):
        error = error_of(k / UNITS, taken, executor)
        low, high = (low, k) if error <= most else (k + 1, high)
        if low == high:
            break
        guess = k + math.ceil(UNITS * math.log2(max(error, TINY) / max(most, TINY)))
        k = min(max(guess, low), high - 1) if tries < GUESSES else (low + high) // 2
    return low / UNITS if low <= FINEST * UNITS else None
