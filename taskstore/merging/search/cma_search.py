"""Search continuous values by CMA-ES, the user's own measure deciding (Hansen, arXiv 1604.00772).

Candidates come in generations, around a mean whose covariance follows what scored well. The first
candidate is the start: the method as it usually is. A candidate whose evaluation fails counts as
worst. The seed alone decides what is drawn, so the same search reads what its journal has and goes
on from there. Values are rounded to four digits.

With several evaluators a candidate's place is that among all that were scored: first what none
dominates and, of those, what has most room around it. So the mean moves to where the Pareto front
is open.

Legend: D = axes.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from taskstore import extras
from taskstore.cluster import joined
from taskstore.locations import publish
from taskstore.locations.base import PathLike
from taskstore.merging.search import front as fronts
from taskstore.merging.search.front import Front, OnFront, standing
from taskstore.merging.search.origins import Origin
from taskstore.merging.search.outcome import Searched, written
from taskstore.merging.search.scoring import Scorer
from taskstore.merging.search.space import Space
from taskstore.merging.search.trials import Plan, Trials
from taskstore.progress import Callback, silent

SPREAD = 0.25  # first standard deviation, of an axis from 0 to 1
NAME = "CMA-ES (arXiv 1604.00772)"


def search(
    origin: Origin,
    target: PathLike,
    space: Space,
    scorer: Scorer,
    plan: Plan,
    progress: Callback = silent,
) -> Searched:
    """Write the merged model that scores best to the folder `target`.

    Raises EvaluationFailed if all models fail, MissingExtra, and what `merge` does; nothing is at
    `target` then, and what was scored is in the journal.
    """
    target = Path(target)
    with ExitStack() as stack:
        stack.enter_context(publish.alone(target))
        scorer = kept(stack, scorer, target, space)
        trials = tried(origin, target, space, [scorer], plan, progress)
        return written(trials, scorer, space.at, NAME, plan.seed)


def pareto(
    origin: Origin,
    target: PathLike,
    space: Space,
    scorers: Sequence[Scorer],
    plan: Plan,
    point: int | None = None,
    progress: Callback = silent,
) -> OnFront:
    """Write the model of a point of the Pareto front of several evaluators, as `search` does.

    `point` counts from 1, the best by the first evaluator; None: the one nearest to the best of
    all. Raises OptionError for a point that the front lacks; its scores are in the journal then.
    """
    target = Path(target)
    with ExitStack() as stack:
        stack.enter_context(publish.alone(target))
        first = kept(stack, scorers[0], target, space)
        judges = [first, *scorers[1:]]
        trials = tried(origin, target, space, judges, plan, progress)
        front = Front.of(trials, judges, NAME, plan.seed, point)
        text, options = fronts.section(front), space.at(front.values[front.best])
        report = first.make(origin, options, origin.names, progress, target, text)
    return OnFront(front, report)


def kept(stack: ExitStack, scorer: Scorer, target: Path, space: Space) -> Scorer:
    """The scorer; it keeps the merged vector where candidates differ in its scale alone.

    Else it keeps what they share, unless a cluster merges them, which does not see these files.
    """
    alone = [axis.kind for axis in space.axes] == ["alpha"]
    if not alone and joined():
        return scorer
    return stack.enter_context(scorer.keeping(target, scaled=alone, shares=not alone))


def tried(
    origin: Origin,
    target: Path,
    space: Space,
    scorers: Sequence[Scorer],
    plan: Plan,
    progress: Callback,
) -> Trials:
    """Score as many models as the budget allows."""
    strategy = _strategy(_library(), space.start, plan.seed)
    origin.check(target, space.options)
    trials = Trials(scorers, origin, target, space.names, plan.budget, progress)
    while trials.left:
        asked = strategy.ask()
        for positions in asked[: trials.left]:
            # the library bends what lies at an end of an axis; the first is the start as it is
            place = positions[: len(space.axes)] if trials.all else space.start
            values = space.values(place)
            trials.run(values, space.at(values))
        if trials.left:
            last = slice(-len(asked), None)
            known = trials.all if len(scorers) > 1 else trials.all[last]
            strategy.tell(asked, standing(known)[last])
    return trials


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
