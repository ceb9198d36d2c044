"""The points that a search tried, and the model that was made of the best of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from taskstore.merging.report import MergeReport
from taskstore.merging.search.grids import Values
from taskstore.merging.search.scoring import Scorer, Scores
from taskstore.store.card import cell

MOST = 24  # points that a model card lists


@dataclass(frozen=True)
class Points:
    """The points that were tried: a value per axis, and scores; `best` numbers the chosen one.

    failed   what could not be scored, by its values, and why; it counts as worst
    seed     of the numbers that the search drew (None: it drew none)
    """

    axes: Mapping[str, Values]
    values: list[Values]
    scores: list[Scores]
    best: int
    minimise: bool
    evaluator: str
    failed: Mapping[str, str] = field(default_factory=dict)
    seed: int | None = None

    @property
    def scored(self) -> str:
        """The name of the score that counts."""
        word = "loss" if self.minimise else "score"
        return f"mean {word}" if len(self.scores[0].tasks) > 1 else word

    def to_dict(self) -> dict[str, Any]:
        rows = [
            {
                "values": dict(zip(self.axes, values, strict=True)),
                "score": scores.mean,
                "scores": scores.named,
                "chosen": i == self.best,
            }
            for i, (values, scores) in enumerate(zip(self.values, self.scores, strict=True))
        ]
        found = {"evaluator": self.evaluator, "minimise": self.minimise, "points": rows}
        drawn = {} if self.seed is None else {"seed": self.seed, "failed": dict(self.failed)}
        return {**found, **drawn}


@dataclass(frozen=True)
class Searched:
    """The points, and the model that was made of the best."""

    points: Points
    report: MergeReport

    def to_dict(self) -> dict[str, Any]:
        return {**self.report.to_dict(), "search": self.points.to_dict()}


def words(axes: Mapping[str, Values], values: Values) -> str:
    """The values of a point by name: "alpha 0.3, k 2"."""
    return ", ".join(f"{name} {value:g}" for name, value in zip(axes, values, strict=True))


def section(points: Points, scorer: Scorer) -> str:
    """The points for the model card; only the best ones if there are many."""
    tasks = list(points.scores[0].named)
    own = tasks if len(tasks) > 1 else []
    scores = points.scores
    order = sorted(range(len(scores)), key=lambda i: (i != points.best, scorer.cost(scores[i])))
    shown = sorted(order[:MOST])
    which = f"The best {MOST} of {len(order)} points" if len(order) > MOST else "Points"
    rows = []
    for i in shown:
        found = (*(scores[i].tasks[task] for task in own), scores[i].mean)
        cells = [f"{x:g}" for x in points.values[i]] + [f"{x:.4g}" for x in found]
        rows.append([f"**{x}**" if i == points.best else x for x in cells])
    columns = [*points.axes, *own, points.scored]
    drawn = "" if points.seed is None else f" of CMA-ES (arXiv 1604.00772), seed {points.seed}"
    text = scorer.section("Search", f"{which}{drawn}, scored", columns, rows)
    failed = "".join(f"- {cell(what)}: {cell(why)}\n" for what, why in points.failed.items())
    return f"{text}\nNot scored, and so counted as worst:\n\n{failed}" if failed else text
