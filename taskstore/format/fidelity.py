"""Say how near a task of a store is to its fine-tune: one measure, one wording, for every surface.

From the sums that SPEC.md lists under `fidelity`, with w the fine-tune's weights, tau its task
vector, tau^ the rebuilt one and e = tau^ - tau:

    weight error   |e| / |w|
    projection     <tau, tau^> / |tau|^2
    error          weight error + 0.2 |1 - projection|
    grade          A: error at most 0.030   B: at most 0.055   C: above

No data is needed. What the grades promise was measured: docs/fidelity.md.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from taskstore.errors import InputError
from taskstore.format.manifest import Sums, Task

GRADES: Mapping[str, float] = {"A": 0.030, "B": 0.055}  # the largest error of each
WORST = "C"
EXPLAINED = (
    "Weight error is |rebuilt - fine-tune| / |fine-tune| over all shared weights; projection is "
    "how much of the task vector is left, 1 is all of it. Of the models that were measured for "
    "these grades, those of A kept 99 % of their scores or more, those of B 97 %; C may have kept "
    "all or nothing: measure it."
)
_TOO_SHORT = 0.2  # what a projection of 0 adds to the error
_HUGE = 1e9  # no figure is larger, so that each is a number in JSON


@dataclass(frozen=True)
class Fidelity:
    """What a task keeps of its fine-tune; figures and grade where it is approximate and measured.

    `kind` is "exact" where every tensor is the fine-tune's, bit for bit; "not measured" where it
    is an approximation and the store does not say how near.
    """

    kind: Literal["exact", "approximate", "not measured"]
    grade: str | None = None
    weight_error: float | None = None
    projection: float | None = None
    error: float | None = None
    words: str = field(init=False)  # what tables, cards and answers say

    def __post_init__(self) -> None:
        object.__setattr__(self, "words", self._words())

    def _words(self) -> str:
        if self.kind == "exact":
            return "exact"
        if self.weight_error is None:
            return "approximate, not measured"
        along = f"projection {self.projection:.2f}"
        return f"approximate, {self.grade}: weight error {self.percent}, {along}"

    @property
    def percent(self) -> str:
        """The weight error as a person writes it; "" where it was not measured."""
        if self.weight_error is None:
            return ""
        percent = 100 * self.weight_error
        size = f"{percent:#.2g}".rstrip(".") if 0 < percent < 10 else f"{percent:.0f}"
        return f"{size} %"

    @property
    def is_safe(self) -> bool:
        """Whether it is exact, or of a grade above the worst."""
        return self.kind == "exact" or self.grade in GRADES


def listed(best: Fidelity, lower: Mapping[str, Fidelity]) -> str:
    """Return the words for all tiers of a task, the best first."""
    return "; ".join([best.words, *(f"{tier} {f.words}" for tier, f in lower.items())])


EXACT = Fidelity("exact")


def of_task(task: Task, tier: str | None = None) -> Fidelity:
    """Return the fidelity of a task rebuilt up to a tier that it has; None: up to its best."""
    there = task.all_tiers
    tier = tier or (there[-1] if there else "exact")
    if tier == "exact":
        return EXACT
    sums = (task.fidelity or {}).get(tier)
    return Fidelity("not measured") if sums is None else of_sums(sums)


def of_sums(sums: Sums) -> Fidelity:
    """Return the figures and the grade that four sums give.

    Without a task vector nothing is missing along it: its projection is 1.
    """
    weight_error = math.sqrt(_ratio(sums.error, sums.weights, 0.0 if not sums.error else _HUGE))
    projection = _ratio(sums.product, sums.vector, 1.0)
    error = weight_error + _TOO_SHORT * abs(1 - projection)
    return Fidelity("approximate", grade_of(error), weight_error, projection, error)


def grade_of(error: float) -> str:
    """Return the grade of an error."""
    return next((grade for grade, most in GRADES.items() if error <= most), WORST)


def largest_error(word: str) -> float:
    """Read an error, or the largest one of a grade; raises InputError."""
    try:
        return GRADES[word.upper()] if word.upper() in GRADES else float(word)
    except ValueError:
        known = " or ".join(GRADES)
        raise InputError(f"{word!r} is no error and no grade; give a number, {known}") from None


def _ratio(part: float, whole: float, otherwise: float) -> float:
    return max(-_HUGE, min(_HUGE, part / whole)) if whole else otherwise
