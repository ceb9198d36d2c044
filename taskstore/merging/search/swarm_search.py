"""Search by particles that move in weight space: Model Swarms (Feng et al., arXiv 2410.11163).

    v = (r1 0.4 v + r2 0.3 (p - x) + r3 0.3 (g - x) + r4 0.3 (x - w)) / (the sum of the factors)
    x = x + step v

x is a model, p the best that this particle was, g the best and w the worst of all; r1 to r4 are
drawn from [0, 1) at each move. The step is 1 at first and times 0.95 after each round, 0.1 at
least. The particles are the fine-tunes; more lie on lines through two of them, x_a + 2 r (x_b -
x_a). Each starts towards another one. A particle that has not bettered itself in five rounds goes
back to where it was best and stops there. The search ends after ten rounds without a better model.

All of it is linear in the models, so a particle is its weights of the task vectors, and a merge by
`sum` makes its model. Of equal scores the first counts. What fails is the worst. Checked against
the authors' code, where a share of the particles may rest in a round; here all move.

Legend: P = particles, D = task vectors that have a weight.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from taskstore.errors import OptionError
from taskstore.locations import publish
from taskstore.locations.base import PathLike
from taskstore.merging.methods import registry
from taskstore.merging.options import MergeOptions
from taskstore.merging.search.grids import Grids
from taskstore.merging.search.origins import Origin
from taskstore.merging.search.outcome import Searched, written
from taskstore.merging.search.scoring import Scorer
from taskstore.merging.search.space import PLACES, Space, weighted
from taskstore.merging.search.trials import Plan, Trials, Tried
from taskstore.progress import Callback, silent

NAME = "Model Swarms (arXiv 2410.11163)"
INERTIA, OWN, ALL, WORST = 0.4, 0.3, 0.3, 0.3
SHRINK, LEAST = 0.95, 0.1
PATIENCE, RESTART = 10, 5  # rounds
MOST, ROUNDS = 20, 5  # particles; rounds that the budget should allow at least
F64 = NDArray[np.float64]


def space(options: MergeOptions, grids: Grids, names: Sequence[str]) -> Space:
    """The weights of the task vectors; raises OptionError for what is not linear in them."""
    if grids.axes:
        raise OptionError(
            f"particles have weights alone; give one value of {', '.join(grids.axes)}, or search "
            "by cma"
        )
    if registry.split(options.method).method != "sum":
        raise OptionError(
            f"particles move in weight space, which is `sum` with weights, and the method is "
            f"{options.method!r}; take sum, or search by cma"
        )
    found = weighted(options, names)
    if len(found.axes) < 2:
        raise OptionError(
            "particles move between fine-tunes; give two or more whose weights are left open"
        )
    return found


def search(
    origin: Origin,
    target: PathLike,
    space: Space,
    scorer: Scorer,
    plan: Plan,
    progress: Callback = silent,
) -> Searched:
    """Write the best model that a particle was to the folder `target`.

    Raises EvaluationFailed if all models fail, and what `merge` does; nothing is at `target` then,
    and what was scored is in the journal.
    """
    target = Path(target)
    with publish.alone(target):
        origin.check(target, space.options)
        trials = Trials([scorer], origin, target, space.names, plan.budget, progress)
        _fly(space, trials, np.random.default_rng(plan.seed))
        return written(trials, scorer, space.at, NAME, plan.seed)


@dataclass
class Particle:
    """Where a particle is, (D,), its velocity, and its best with the round in which it was."""

    x_D: F64
    v_D: F64
    best: Tried | None = None
    since: int = 0


def _fly(space: Space, trials: Trials, drawn: np.random.Generator) -> None:
    """Moves particles until the budget is spent, or nothing gets better."""
    swarm = _started(len(space.axes), trials.budget, drawn)
    step, best_in = 1.0, 0
    best: Tried | None = None
    worst: Tried | None = None
    for round_ in range(trials.budget):
        if best and worst:
            for particle in swarm:
                _move(particle, best, worst, step, round_, drawn)
            step = max(step * SHRINK, LEAST)
        for particle in swarm:
            if not trials.left or round_ - best_in > PATIENCE:
                return
            values = tuple(float(f"{x:.{PLACES}g}") for x in particle.x_D)
            tried = trials.run(values, space.at(values))
            if particle.best is None or tried.rank < particle.best.rank:
                particle.best, particle.since = tried, round_
            if best is None or tried.rank < best.rank:
                best, best_in = tried, round_
            if worst is None or tried.rank > worst.rank:
                worst = tried


def _started(tasks: int, budget: int, drawn: np.random.Generator) -> list[Particle]:
    """The fine-tunes, and models on lines through two of them; each heads for another."""
    count = max(tasks, min(MOST, budget // ROUNDS))
    places = list(np.eye(tasks))
    for _ in range(count - tasks):
        one, two = drawn.choice(tasks, 2, replace=False)
        places.append(places[one] + 2 * drawn.random() * (places[two] - places[one]))
    heads = [(i + 1 + int(drawn.integers(count - 1))) % count for i in range(count)]
    return [Particle(x_D, places[to] - x_D) for x_D, to in zip(places, heads, strict=True)]


def _move(
    particle: Particle,
    best: Tried,
    worst: Tried,
    step: float,
    round_: int,
    drawn: np.random.Generator,
) -> None:
    assert particle.best is not None
    own_D = np.array(particle.best.values)
    if round_ - particle.since > RESTART:
        particle.x_D, particle.v_D, particle.since = own_D, np.zeros_like(own_D), round_
    x_D = particle.x_D
    factors = drawn.random(4) * (INERTIA, OWN, ALL, WORST)
    ways = (particle.v_D, own_D - x_D, np.array(best.values) - x_D, x_D - np.array(worst.values))
    particle.v_D = sum(f * way for f, way in zip(factors, ways, strict=True)) / factors.sum()
    particle.x_D = x_D + step * particle.v_D
