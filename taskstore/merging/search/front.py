"""The Pareto front of a search with several evaluators, and the model of a point of it.

A model is on the front if no other one dominates it: nowhere worse and somewhere better. Points are
in the order of the first evaluator, best first. Without a choice, the point is written that lies
nearest to the best of all scores, each on a scale from the best to the worst of the front.

Legend: N = models, E = evaluators.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taskstore.errors import OptionError
from taskstore.merging.report import MergeReport
from taskstore.merging.search.grids import Values
from taskstore.merging.search.outcome import MOST, listed, partly
from taskstore.merging.search.scoring import Scorer, Scores
from taskstore.merging.search.trials import Trials, Tried, beaten
from taskstore.store.card import cell, code


@dataclass(frozen=True)
class Front:
    """The models that were scored by all evaluators.

    names      of the evaluators' scores
    losses     whether each is a loss
    scores     those of a model, one per evaluator
    front      the numbers of the models on the front, the best by the first evaluator first
    best       number of the model that was chosen
    """

    axes: Mapping[str, Values]
    names: list[str]
    losses: list[bool]
    evaluators: list[str]
    values: list[Values]
    scores: list[tuple[Scores, ...]]
    front: list[int]
    best: int
    drawn_by: str
    seed: int
    failed: Mapping[str, str] = field(default_factory=dict)
    dropped: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        trials: Trials,
        scorers: Sequence[Scorer],
        drawn_by: str,
        seed: int,
        point: int | None = None,
    ) -> Front:
        """The front; raises OptionError for a `point`, from 1, that it does not have."""
        whole = trials.whole
        front = _front(whole)
        if point is not None and not 1 <= point <= len(front):
            raise OptionError(
                f"the front has points 1 to {len(front)}, and point {point} is asked for; the "
                "scores are in the journal, so another choice costs no evaluation"
            )
        costs_NE = np.array([whole[i].costs for i in front])
        best = front[_nearest(costs_NE) if point is None else point - 1]
        return cls(
            trials.axes,
            [scorer.name for scorer in scorers],
            [scorer.minimise for scorer in scorers],
            [scorer.label for scorer in scorers],
            [tried.values for tried in whole],
            [tried.scores for tried in whole],
            front,
            best,
            drawn_by,
            seed,
            trials.failed,
            trials.dropped,
        )

    def to_dict(self) -> dict[str, Any]:
        rows = [
            {
                "values": dict(zip(self.axes, values, strict=True)),
                "scores": {n: s.mean for n, s in zip(self.names, scores, strict=True)},
                "point": self.front.index(i) + 1 if i in self.front else None,
                "chosen": i == self.best,
            }
            for i, (values, scores) in enumerate(zip(self.values, self.scores, strict=True))
        ]
        each = zip(self.names, self.evaluators, self.losses, strict=True)
        judges = [{"name": n, "evaluator": e, "minimise": loss} for n, e, loss in each]
        found = {"evaluators": judges, "seed": self.seed, "points": rows}
        return {**found, "failed": dict(self.failed), **partly(self.dropped)}


@dataclass(frozen=True)
class OnFront:
    """The front, and the model that was made of a point of it."""

    front: Front
    report: MergeReport

    def to_dict(self) -> dict[str, Any]:
        return {**self.report.to_dict(), "pareto": self.front.to_dict()}


def section(front: Front) -> str:
    """The front for the model card."""
    pairs = zip(front.names, front.losses, strict=True)
    head = [f"{name} (loss)" if loss else name for name, loss in pairs]
    columns = ["point", *map(cell, head), *map(cell, front.axes)]
    lines = [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
    for number, i in enumerate(front.front[:MOST], 1):
        means = [f"{scores.mean:.4g}" for scores in front.scores[i]]
        cells = [str(number), *means, *(f"{value:g}" for value in front.values[i])]
        lines.append(f"| {' | '.join(f'**{x}**' if i == front.best else x for x in cells)} |")
    by = ", ".join(f"{n} by {code(e)}" for n, e in zip(front.names, front.evaluators, strict=True))
    text = (
        f"\n## Search\n\nThe Pareto front of {len(front.values)} models of {front.drawn_by}, "
        f"seed {front.seed}, scored with {by}:\n\n"
    )
    return text + "\n".join(lines) + "\n" + listed(front.failed, front.dropped)


def standing(tried: Sequence[Tried]) -> list[float]:
    """The place of each model, from 0, small for a good one; equal ones share it.

    What was scored with more of the evaluation comes first, then what fewer rounds of taking the
    front away leave, then what has more room around it among those of its round (Deb et al. 2002).
    """
    keys: dict[int, tuple[float, ...]] = {}
    for part in {t.part for t in tried}:
        own = [i for i, t in enumerate(tried) if t.part == part]
        if part < 0:
            keys |= dict.fromkeys(own, (1.0,))
            continue
        costs_NE = np.array([tried[i].costs for i in own])
        if costs_NE.shape[1] == 1:
            keys |= {i: (-part, cost) for i, cost in zip(own, costs_NE[:, 0].tolist(), strict=True)}
            continue
        for round_, members in enumerate(_rounds(costs_NE)):
            room = _room(costs_NE[members])
            keys |= {own[m]: (-part, round_, -r) for m, r in zip(members, room, strict=True)}
    order = {key: float(place) for place, key in enumerate(sorted(set(keys.values())))}
    return [order[keys[i]] for i in range(len(tried))]


def _front(whole: Sequence[Tried]) -> list[int]:
    """Which are dominated by none, in the order of their costs; of equal ones the first."""
    costs = [tried.costs for tried in whole]
    on = [i for i, own in enumerate(costs) if not beaten(own, costs) and own not in costs[:i]]
    return sorted(on, key=lambda i: costs[i])


def _rounds(costs_NE: NDArray[np.float64]) -> list[list[int]]:
    """Those that none dominates, those that are then dominated by none, and so on."""
    left, found = list(range(len(costs_NE))), list[list[int]]()
    while left:
        known = costs_NE[left]
        members = [i for i in left if not beaten(costs_NE[i], known)]
        found.append(members)
        left = [i for i in left if i not in members]
    return found


def _room(costs_NE: NDArray[np.float64]) -> list[float]:
    """The distance between the neighbours of each, added up over evaluators; inf at the ends."""
    room_N = np.zeros(len(costs_NE))
    for cost_N in costs_NE.T:
        order = np.argsort(cost_N, kind="stable")
        low, high = cost_N[order[0]], cost_N[order[-1]]
        room_N[order[[0, -1]]] = np.inf
        if high > low:
            room_N[order[1:-1]] += (cost_N[order[2:]] - cost_N[order[:-2]]) / (high - low)
    return [float(room) for room in room_N]


def _nearest(costs_NE: NDArray[np.float64]) -> int:
    """The point of the front that is nearest to the best of all evaluators."""
    low_E, high_E = costs_NE.min(0), costs_NE.max(0)
    far_NE = (costs_NE - low_E) / np.where(high_E > low_E, high_E - low_E, 1)
    return int(np.argmin((far_NE**2).sum(1)))
