"""Search continuous values by CMA-ES, the user's own measure deciding (Hansen, arXiv 1604.00772).

Candidates come in generations, around a mean whose covariance follows what scored well. The first
candidate is the start: the method as it usually is. A candidate whose evaluation fails counts as
worst. The seed alone decides what is drawn, so the same search reads what its journal has and goes
on from there. Values are rounded to four digits.

Legend: D = axes.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from taskstore import extras
from taskstore.errors import EvaluationFailed, NotFinite, OptionError
from taskstore.locations import publish
from taskstore.locations.base import PathLike
from taskstore.merging.search.origins import Origin
from taskstore.merging.search.outcome import Points, Searched, section, words
from taskstore.merging.search.scoring import Scorer, Scores
from taskstore.merging.search.space import Space
from taskstore.progress import Callback, silent

SPREAD = 0.25  # first standard deviation, of an axis from 0 to 1
Trial = Callable[[tuple[float, ...]], Scores]


@dataclass(frozen=True)
class Plan:
    """How much is searched; raises OptionError for a budget that allows no model.

    budget   models that are scored; one that fails counts
    seed     of what is drawn
    """

    budget: int = 60
    seed: int = 0

    def __post_init__(self) -> None:
        if self.budget < 1:
            raise OptionError(f"a budget of {self.budget} models scores none; give at least 1")
        if self.seed < 0:
            raise OptionError(f"seed {self.seed} is negative; give 0 or more")


def search(
    origin: Origin,
    target: PathLike,
    space: Space,
    scorer: Scorer,
    plan: Plan,
    progress: Callback = silent,
) -> Searched:
    """Write the merged model that scores best to the folder `target`.

    Raises EvaluationFailed if all models of the first generation fail, MissingExtra, and what
    `merge` does; nothing is at `target` then, and what was scored is in the journal.
    """
    target, names = Path(target), space.names
    library = _library()
    with ExitStack() as stack:
        stack.enter_context(publish.alone(target))
        origin.check(target, space.options)
        if [axis.kind for axis in space.axes] == ["alpha"]:
            scorer = stack.enter_context(scorer.keeping(target))
        scorer.expect(plan.budget)

        def trial(values: tuple[float, ...]) -> Scores:
            what, options = words(names, values), space.at(values)
            return scorer.merged(what, origin, options, origin.names, target, progress)

        values, scores, failed = _tried(library, space, scorer, plan, trial)
        best = min(range(len(scores)), key=lambda i: scorer.cost(scores[i]))
        label, minimise = scorer.label, scorer.minimise
        points = Points(names, values, scores, best, minimise, label, failed, plan.seed)
        text, options = section(points, scorer), space.at(values[best])
        report = scorer.make(origin, options, origin.names, progress, target, text)
    return Searched(points, report)


def _tried(
    library: Any, space: Space, scorer: Scorer, plan: Plan, trial: Trial
) -> tuple[list[tuple[float, ...]], list[Scores], dict[str, str]]:
    """The values that were scored, their scores, and what failed with the reason."""
    strategy = _strategy(library, space.start, plan.seed)
    values: list[tuple[float, ...]] = []
    scores: list[Scores] = []
    failed: dict[str, str] = {}
    left = plan.budget
    while left:
        asked = strategy.ask()
        costs: list[float | None] = []
        for positions in asked[:left]:
            point = space.values(positions[: len(space.axes)])
            try:
                found = trial(point)
            except (EvaluationFailed, NotFinite) as error:
                last, cost = error, None
                failed[words(space.names, point)] = str(error)
                scorer.say(f"{words(space.names, point)}: failed, counts as worst: {error}")
            else:
                values.append(point)
                scores.append(found)
                cost = scorer.cost(found)
            costs.append(cost)
        if not scores:
            raise last
        left -= len(costs)
        if len(costs) == len(asked):
            strategy.tell(asked, _without_holes(costs))
    return values, scores, failed


def _without_holes(costs: Sequence[float | None]) -> list[float]:
    """The costs, with one above all others for what failed."""
    worst = max((cost for cost in costs if cost is not None), default=0.0)
    return [worst + 1 + abs(worst) if cost is None else cost for cost in costs]


def _strategy(library: Any, start: Sequence[float], seed: int) -> Any:
    """CMA-ES in [0, 1]^D from its first point on; NumPy's own generator is left alone."""
    drawn = np.random.default_rng(seed)
    first = [*start, 0.5] if len(start) == 1 else list(start)  # it wants two axes
    settings = {
        "bounds": [0, 1],
        "seed": np.nan,
        "randn": lambda *shape: drawn.standard_normal(shape),
        "verbose": -9,
    }
    strategy = library.CMAEvolutionStrategy(first, SPREAD, settings)
    strategy.inject([first], force=True)
    return strategy


def _library() -> Any:
    """The library; it warns that it could not draw plots, which nobody asked for."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return extras.need("a search by CMA-ES", "cma")
