"""Choose a lambda per task by the user's own measure on validation data.

Every lambda of the grid packs the family once and scores each task's rebuilt model; each task takes
the lambda of its best score, the smallest of equals (arXiv 2405.07813 chooses so). Scores go to a
journal as they come, so an interrupted search goes on where it was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from taskstore.errors import OptionError
from taskstore.evaluation.bench import Bench, as_bench
from taskstore.evaluation.command import Evaluator
from taskstore.locations import publish
from taskstore.locations.base import PathLike
from taskstore.locations.remote import mirror
from taskstore.locations.scratch import scratch as scratch_folder
from taskstore.packing.driver import pack
from taskstore.packing.elsewhere.sending import check_target
from taskstore.packing.options import PackOptions
from taskstore.packing.report import PackReport
from taskstore.progress import Callback, silent
from taskstore.public import public
from taskstore.store import open as open_store

GRID = (0.2, 0.3, 0.4, 0.5, 0.6)  # the published one


@dataclass(frozen=True)
class Tuning:
    """Scores by task and lambda, the lambdas that were chosen, and the store packed with them."""

    scores: Mapping[str, Mapping[float, float]]
    lambdas: Mapping[str, float]
    report: PackReport

    def to_dict(self) -> dict[str, Any]:
        rows = {
            task: {
                "lambda": self.lambdas[task],
                "score": by_lambda[self.lambdas[task]],
                "scores": {f"{lam:g}": score for lam, score in by_lambda.items()},
            }
            for task, by_lambda in self.scores.items()
        }
        return {"tasks": rows, "pack": self.report.to_dict()}


@public
def tune(
    base: PathLike,
    finetunes: Mapping[str, PathLike],
    target: PathLike,
    evaluator: Bench | Evaluator | str,
    *,
    grid: Sequence[float] = GRID,
    options: PackOptions | None = None,
    scratch: PathLike | None = None,
    progress: Callback = silent,
) -> Tuning:
    """Search the grid for every task, then pack the family with what was found.

    `evaluator` is a command with {model} and {task}, a function of a model folder and a task, or a
    Bench, which can keep a journal. Use validation data: the score of a choice is no test score.
    Raises InputError for a grid that makes no sense, EvaluationFailed, and what `pack` raises;
    `target` is written at the end only.

    >>> from evaluate import score  # examples/evaluate.py
    >>> def evaluator(folder: Path, task: str) -> float:
    ...     return score(folder, task, split="val", limit=10)
    >>> models = {"roman": "family/roman", "spanish": "family/spanish"}
    >>> found = taskstore.tune("family/base", models, "tuned", evaluator, grid=[0.5, 2])
    >>> found.lambdas
    {'roman': 0.5, 'spanish': 0.5}
    """
    options, bench = options or PackOptions(), as_bench(evaluator)
    if options.tiers is None:
        options = replace(options, tiers="mask")
    if not grid:
        raise OptionError("the grid of lambdas is empty")
    lambdas = sorted(set(grid))
    trials = [replace(options, lam=lam, lambdas={}, overwrite=False) for lam in lambdas]
    overwrite = options.overwrite
    with publish.alone(mirror.here(target)):
        check_target(target, overwrite=overwrite)
        scores: dict[str, dict[float, float]] = {task: {} for task in sorted(finetunes)}
        bench.journal.expect(bench.label, len(lambdas) * len(scores), bench.say)
        for lam, trial in zip(lambdas, trials, strict=True):
            with scratch_folder(mirror.here(target), scratch) as folder:
                pack(base, finetunes, folder / "store", trial, progress)
                store = open_store(folder / "store", base=base)
                for task in scores:
                    scores[task][lam] = bench.rebuilt(store, task, task, f"lambda {lam:g}")
        chosen = {
            task: max(found, key=lambda lam: (found[lam], -lam)) for task, found in scores.items()
        }
        report = pack(base, finetunes, target, replace(options, lambdas=chosen), progress)
    return Tuning(scores, chosen, report)
