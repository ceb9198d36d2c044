"""The points that a search tried, and the model that was made of the best of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from taskstore.merging.options import MergeOptions
from taskstore.merging.report import MergeReport
from taskstore.merging.search.grids import Values
from taskstore.merging.search.scoring import Scorer, Scores
from taskstore.merging.search.trials import Trials
from taskstore.store.card import cell

MOST = 24  # points that a model card lists


@dataclass(frozen=True)
class Points:
    """The points that were tried: a value per axis, and scores; `best` numbers the chosen one.

    failed    what could not be scored, by its values, and why; it counts as worst
    dropped   what was scored in part, by its values, and with which score
    drawn_by  what drew the points, "" for a grid
    seed      of the numbers that it drew (None: it drew none)
    """

    axes: Mapping[str, Values]
    values: list[Values]
    scores: list[Scores]
    best: int
    minimise: bool
    evaluator: str
    failed: Mapping[str, str] = field(default_factory=dict)
    dropped: Mapping[str, str] = field(default_factory=dict)
    drawn_by: str = ""
    seed: int | None = None

    @classmethod
    def of(
        cls, trials: Trials, scorer: Scorer, drawn_by: str = "", seed: int | None = None
    ) -> Points:
        """Those of a search with one evaluator; of equal ones the first is the best."""
        whole = trials.whole
        best = min(range(len(whole)), key=lambda i: whole[i].rank)
        return cls(
            trials.axes,
            [tried.values for tried in whole],
            [tried.scores[0] for tried in whole],
            best,
            scorer.minimise,
            scorer.label,
            trials.failed,
            trials.dropped,
            drawn_by,
            seed,
        )

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
        found: dict[str, Any] = {"evaluator": self.evaluator, "minimise": self.minimise}
        found["points"] = rows
        if self.seed is not None:
            found["seed"] = self.seed
        if self.seed is not None or self.failed:
            found["failed"] = dict(self.failed)
        return {**found, **partly(self.dropped)}


@dataclass(frozen=True)
class Searched:
    """The points, and the model that was made of the best."""

    points: Points
    report: MergeReport

    def to_dict(self) -> dict[str, Any]:
        return {**self.report.to_dict(), "search": self.points.to_dict()}


def written(
    trials: Trials,
    scorer: Scorer,
    options: Callable[[Values], MergeOptions],
    drawn_by: str = "",
    seed: int | None = None,
) -> Searched:
    """Write the best model of a search with one evaluator; `options` makes it of its values."""
    points = Points.of(trials, scorer, drawn_by, seed)
    best, names = options(points.values[points.best]), trials.origin.names
    text = section(points, scorer)
    report = scorer.make(trials.origin, best, names, trials.progress, trials.target, text)
    return Searched(points, report)


def partly(dropped: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """What was scored in part, for JSON."""
    return {"dropped": dict(dropped)} if dropped else {}


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
    drawn = "" if points.seed is None else f" of {points.drawn_by}, seed {points.seed}"
    text = scorer.section("Search", f"{which}{drawn}, scored", columns, rows)
    return text + listed(points.failed, points.dropped)


def listed(failed: Mapping[str, str], dropped: Mapping[str, str]) -> str:
    """What has no score of the whole, for the model card."""
    titles = {
        "Not scored, and so counted as worst:": failed,
        "Dropped, with the score up to there (arXiv 1810.05934):": dropped,
    }
    lists = {
        title: "".join(
            f"- {cell(what)}: {cell(why)}\n" for what, why in list(models.items())[:MOST]
        )
        for title, models in titles.items()
        if models
    }
    return "".join(f"\n{title}\n\n{rows}" for title, rows in lists.items())
