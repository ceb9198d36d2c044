"""Search alpha, and other options of a method, by the user's own measure on validation data.

Each point of the grids is merged, scored and removed. The best is merged once more, to the target.
Of equal scores the first counts: the smallest alpha, then the smallest options. A point on the line
from a base to one fine-tune is an alpha too, so a search also gives linear interpolation paths
(arXiv 1412.6544).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from taskstore.locations import publish
from taskstore.locations.base import PathLike
from taskstore.merging.options import MergeOptions
from taskstore.merging.report import MergeReport
from taskstore.merging.search.grids import Grids, Values
from taskstore.merging.search.origins import Origin
from taskstore.merging.search.scoring import Scorer, Scores
from taskstore.progress import Callback, silent

MOST = 24  # points that a model card lists


@dataclass(frozen=True)
class GridPoints:
    """The points that were tried: a value per axis, and scores; `best` numbers the chosen one."""

    axes: Mapping[str, Values]
    values: list[Values]
    scores: list[Scores]
    best: int
    minimise: bool
    evaluator: str

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
        return {"evaluator": self.evaluator, "minimise": self.minimise, "points": rows}


@dataclass(frozen=True)
class Searched:
    """The points, and the model that was made of the best."""

    points: GridPoints
    report: MergeReport

    def to_dict(self) -> dict[str, Any]:
        return {**self.report.to_dict(), "search": self.points.to_dict()}


def search(
    origin: Origin,
    target: PathLike,
    options: MergeOptions,
    grids: Grids,
    scorer: Scorer,
    progress: Callback = silent,
) -> Searched:
    """Write the merged model that scores best to the folder `target`.

    Without grids there is one point, which is scored. Raises EvaluationFailed and what `merge`
    does; nothing is at `target` then, and what was scored is in the journal.
    """
    target = Path(target)
    with publish.alone(target):
        origin.check(target, options)
        axes, trials = grids.axes, grids.trials(options)
        scorer.expect(len(trials))
        scores = [
            scorer.merged(
                words(axes, values) or "merged", origin, trial, origin.names, target, progress
            )
            for values, trial in trials
        ]
        best = min(range(len(scores)), key=lambda i: scorer.cost(scores[i]))
        values = [point for point, _ in trials]
        points = GridPoints(axes, values, scores, best, scorer.minimise, scorer.label)
        text = section(points, scorer)
        report = origin.merge(target, trials[best][1], progress=progress, section=text)
    return Searched(points, report)


def words(axes: Mapping[str, Values], values: Values) -> str:
    """The values of a point by name: "alpha 0.3, k 2"."""
    return ", ".join(f"{name} {value:g}" for name, value in zip(axes, values, strict=True))


def section(points: GridPoints, scorer: Scorer) -> str:
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
    return scorer.section("Search", f"{which}, scored", columns, rows)
