"""The models that a search tries: each is scored, dropped after a part of it, or fails.

A model whose evaluation fails counts as worst. If the first `GIVE_UP` fail, or all, the search ends
with the error of the last.

With an evaluator that takes `limit`, an evaluation has parts: a ninth of the examples, a third, all
of them. A model goes on to the next part if fewer than a third of the models that were scored with
this one are better: successive halving in its asynchronous form, which makes each model once (Li et
al., arXiv 1810.05934). The first model always goes on, so one is scored whole. With several
evaluators, better is what dominates: nowhere worse and somewhere better.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from taskstore.errors import EvaluationFailed, NotFinite, OptionError
from taskstore.merging.options import MergeOptions
from taskstore.merging.search.grids import Values
from taskstore.merging.search.origins import Origin
from taskstore.merging.search.scoring import Made, Scorer, Scores
from taskstore.progress import Callback, silent

GIVE_UP = 8  # models, if none was scored
ETA = 3  # a third goes on, with three times as many examples
PARTS = 3
Costs = Sequence[Any] | NDArray[np.float64]


@dataclass(frozen=True)
class Plan:
    """How much is searched; raises OptionError for a budget that allows no model.

    budget   models that are scored; one that fails or is dropped counts
    seed     of what is drawn
    """

    budget: int = 60
    seed: int = 0

    def __post_init__(self) -> None:
        if self.budget < 1:
            raise OptionError(f"a budget of {self.budget} models scores none; give at least 1")
        if self.seed < 0:
            raise OptionError(f"seed {self.seed} is negative; give 0 or more")


class Tried(NamedTuple):
    """A model that was tried.

    part     the last part of the evaluation that it was scored with, from 0; -1: it failed
    scores   those of that part, one per evaluator; none if it failed
    costs    what the search makes small, one per evaluator
    why      why it has no score of the whole; "" if it has one
    """

    values: Values
    part: int
    scores: tuple[Scores, ...]
    costs: tuple[float, ...]
    why: str

    @property
    def rank(self) -> tuple[int, float]:
        """What is small for a good model, by the first evaluator."""
        return -self.part, self.costs[0] if self.costs else 0.0


class Trials:
    """Tries models on the way to `target`, one at a time.

    `axes` are what their values mean; `named` says a model in words (None: its values).
    """

    def __init__(
        self,
        scorers: Sequence[Scorer],
        origin: Origin,
        target: Path,
        axes: Mapping[str, Values],
        budget: int,
        progress: Callback = silent,
        named: Callable[[Values], str] | None = None,
    ) -> None:
        self.words = named or partial(words, axes)
        self.axes, self.budget, self.all = axes, budget, list[Tried]()
        self._scorers, self.origin = scorers, origin
        self.target, self.progress = target, progress
        self._parts = parts(scorers[0].limit) if budget > 1 else (scorers[0].limit,)
        self._costs: list[list[tuple[float, ...]]] = [[] for _ in self._parts]
        scorers[0].at(self._parts[0]).expect(budget)

    @property
    def left(self) -> int:
        return self.budget - len(self.all)

    @property
    def whole(self) -> list[Tried]:
        """Those with a score of the whole evaluation; there is one, unless `run` raised."""
        return [tried for tried in self.all if not tried.why]

    @property
    def failed(self) -> dict[str, str]:
        return {self.words(tried.values): tried.why for tried in self.all if tried.part < 0}

    @property
    def dropped(self) -> dict[str, str]:
        dropped = [tried for tried in self.all if tried.why and tried.part >= 0]
        return {self.words(tried.values): tried.why for tried in dropped}

    def run(self, values: Values, options: MergeOptions) -> Tried:
        """Merge and score a model; raises EvaluationFailed if all failed up to now."""
        scorer, what = self._scorers[0], self.words(values) or "merged"
        key, made = scorer.candidate(
            self.origin, options, self.origin.names, self.target, self.progress
        )
        try:
            with _once(made) as made:
                tried = self._scored(values, what, key, made)
        except (EvaluationFailed, NotFinite) as error:
            bare = error.of("") if isinstance(error, EvaluationFailed) else error
            tried = Tried(values, -1, (), (), str(bare))  # it is listed beside its values
            self.all.append(tried)
            enough = not self.left or len(self.all) == GIVE_UP
            if enough and all(t.part < 0 for t in self.all):
                raise
            scorer.say(f"{what}: failed, counts as worst: {bare}")
            return tried
        self.all.append(tried)
        return tried

    def _scored(self, values: Values, what: str, key: str, made: Made) -> Tried:
        for part, limit in enumerate(self._parts):
            scorers = [scorer.at(limit) for scorer in self._scorers]
            scores = tuple(scorer.score(what, key, made) for scorer in scorers)
            costs = tuple(s.cost(found) for s, found in zip(scorers, scores, strict=True))
            known = self._costs[part]
            known.append(costs)
            if part + 1 < len(self._parts) and beaten(costs, known) >= max(1, len(known) / ETA):
                found = ", ".join(f"{score.mean:g}" for score in scores)
                why = f"{found} after {limit} of {self._parts[-1]} examples"
                scorers[0].say(f"{what}: dropped")
                return Tried(values, part, scores, costs, why)
        return Tried(values, part, scores, costs, "")


def parts(limit: int | None) -> tuple[int | None, ...]:
    """The examples of each part of an evaluation over `limit` of them; (None,): all there are."""
    if limit is None:
        return (None,)
    return tuple(sorted({-(-limit // ETA**i) for i in range(PARTS)}))


def beaten(costs: Costs, known: Costs) -> int:
    """How many of the known costs dominate these."""
    own_E, known_NE = np.array(costs), np.array(known)
    return int(((known_NE <= own_E).all(1) & (known_NE < own_E).any(1)).sum())


def words(axes: Mapping[str, Values], values: Values) -> str:
    """The values of a point by name: "alpha 0.3, k 2"."""
    return ", ".join(f"{name} {value:g}" for name, value in zip(axes, values, strict=True))


@contextmanager
def _once(made: Made) -> Iterator[Made]:
    """Makes a model at most once, for all that score it."""
    with ExitStack() as stack:
        folder = cache(lambda: stack.enter_context(made()))
        yield lambda: nullcontext(folder())
