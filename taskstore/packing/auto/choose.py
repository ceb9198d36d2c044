"""Choose what each task needs: the fewest bits whose error on a sample is small enough.

The error is that of format/fidelity.py. A rest is tried at a handful of rates; masks once, for the
whole family; what no rest holds is kept exact. What was packed is measured over all weights, so
that a sample that was wrong is found out (packing/driver.py).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from taskstore.executors import Executor
from taskstore.format.fidelity import largest_error, of_sums
from taskstore.format.manifest import Sums
from taskstore.format.tiers.rest import BITS as LOW
from taskstore.packing.auto.mask_trial import measured
from taskstore.packing.auto.sample import Taken, pieces, rest_bytes, rest_sums, take
from taskstore.packing.auto.shares import shared
from taskstore.packing.job import PackJob, with_options
from taskstore.packing.low_rank.driver import one_thread
from taskstore.packing.low_rank.rates import Rates, rates
from taskstore.packing.options import AUTO, FINEST, LEAST, PackOptions

UNITS = 32  # of a bit: how finely bits are searched
SAFE = 4  # units more than the error says, where there is no third try
MARGIN = 0.985  # of the largest error is what a sample may show
GUESSES = 4  # then the interval is halved
COARSEST = 0.25  # bits of a rest without a part of low rank, at which a search begins
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


def decided(asked: PackJob, refused: Collection[tuple[str, str]] = ()) -> tuple[PackJob, Choice]:
    """Return the pack with what options leave open, as `choose`; raises NotFinite."""
    if asked.options.largest_error is not None:
        choice = choose(asked, refused)
    else:
        choice = Choice(shared(asked), [])
    same = choice.options is asked.options
    return asked if same else with_options(asked, choice.options), choice


@one_thread()
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
        search = Search(job, t, taken)
        found = given.residuals.get(task.name) or search.fewest(most * MARGIN)
        if found and (task.name, "rest") not in refused:
            bits[task.name] = found
            own = search.size(found)
            size += own
            for asked in OTHERS:
                most_of = largest_error(asked) / most
                others[asked] += own * search.ratio(found, most_of)
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


@dataclass
class Search:
    """The fewest bits of a task, by a sample; below LOW those of rests with a part of low rank."""

    job: PackJob
    t: int
    taken: Sequence[Taken]

    @cached_property
    def low(self) -> Rates:
        job = self.job
        return rates(job.family, job.plan, self.t, job.executor, job.options)

    def fewest(self, most: float, taken: Sequence[Taken] | None = None) -> float | None:
        """Return the fewest bits at which the error is at most `most`; None: there are none."""
        found = fewest(taken or self.taken, most, self.job.executor)
        if found is None or found >= LOW:
            return found
        low = self.low.fewest(most)
        return found if low is None else min(max(low, LEAST), LOW - 1 / UNITS)

    def size(self, bits: float) -> float:
        """Return about how many bytes a rest takes."""
        if bits < LOW:
            return bits * self.low.weights / 8
        return sum(self.job.executor.map(rest_bytes, bits, self.taken))

    def ratio(self, bits: float, errors: float) -> float:
        """Return about the bytes of a rest with `errors` times the error, over one of `bits`.

        A part of the sample tells enough.
        """
        executor, some = self.job.executor, self.taken[::PART]
        if bits < LOW:
            error = self.low.of(self.low.step(bits))[1]
            other = self.low.fewest(error * errors) or FINEST
            return max(other, LEAST) / bits
        of_some = error_of(bits, some, executor)
        other = self.fewest(errors * of_some, some) or FINEST
        if other < LOW:
            return other / bits
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
    low, high, k = int(COARSEST * UNITS), int(FINEST * UNITS) + 1, 2 * UNITS
    for tries in range(2 * UNITS):
        error = error_of(k / UNITS, taken, executor)
        low, high = (low, k) if error <= most else (k + 1, high)
        if low == high:
            break
        guess = k + math.ceil(UNITS * math.log2(max(error, TINY) / max(most, TINY)))
        k = min(max(guess, low), high - 1) if tries < GUESSES else (low + high) // 2
    return low / UNITS if low <= FINEST * UNITS else None
