"""Find the fewest bits per task that keep a share of its score, by the user's own evaluation.

The tier is `rest`: at every rate it keeps more than masks do (docs/fidelity.md). Without an
evaluation, tiers `auto` go by the error of format/fidelity.py (packing/auto).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from taskstore.errors import InputError, OptionError, TargetNotReached
from taskstore.evaluation.bench import Bench
from taskstore.locations import publish
from taskstore.locations.base import PathLike
from taskstore.locations.remote import mirror
from taskstore.locations.scratch import scratch as scratch_folder
from taskstore.packing.driver import pack
from taskstore.packing.elsewhere.sending import check_target
from taskstore.packing.options import PackOptions
from taskstore.packing.report import PackReport
from taskstore.progress import Callback, silent
from taskstore.store import open as open_store

_log = logging.getLogger(__name__)
GRID = (0.75, 1.0, 1.25, 1.5, 2.0, 2.5, 3.0, 4.0)  # bits per parameter, about
ROUNDS = 1 + len(GRID).bit_length()  # evaluations of a task, at most: its original, and bisection


@dataclass(frozen=True)
class Aimed:
    """What was chosen: bits per task, what they reach, and the store packed with them.

    reached   task -> share of the fine-tune's score
    scores    task -> bits -> score
    """

    bits: Mapping[str, float]
    reached: Mapping[str, float]
    scores: Mapping[str, Mapping[float, float]]
    report: PackReport

    def to_dict(self) -> dict[str, Any]:
        rows = {
            task: {
                "bits": self.bits[task],
                "reached": self.reached[task],
                "scores": {f"{bits:g}": s for bits, s in self.scores[task].items()},
            }
            for task in self.bits
        }
        return {"tasks": rows, "pack": self.report.to_dict()}


def with_rest_alone(options: PackOptions) -> PackOptions:
    """The same options with the rest as lowest tier; exact stays where it was asked for.

    Raises OptionError for options that would do nothing then.
    """
    if options.residual or options.residuals:
        raise OptionError("residual does nothing where the bits are searched; leave it out")
    tiers = "rest,exact" if "exact" in options.tier_names else "rest"
    return replace(options, tiers=tiers)


def aim_at_score(
    base: PathLike,
    finetunes: Mapping[str, PathLike],
    target: PathLike,
    share: float,
    bench: Bench,
    *,
    options: PackOptions | None = None,
    anyway: bool = False,
    scratch: PathLike | None = None,
    progress: Callback = silent,
) -> Aimed:
    """Pack with the fewest bits per task of GRID that keep `share` of the fine-tune's score.

    Bisection: a task is evaluated three times, and its original once. Raises TargetNotReached with
    the best that was found and writes nothing, unless `anyway`; InputError for a share that makes
    no sense or an original whose score is not above 0; EvaluationFailed.
    """
    options = with_rest_alone(options or PackOptions())
    if not 0 < share <= 1:
        raise OptionError(f"target {share} is no share of a score, above 0 and at most 1")
    with publish.alone(mirror.here(target)):
        check_target(target, overwrite=options.overwrite)
        bench.journal.expect(bench.label, ROUNDS * len(finetunes), bench.say)
        originals = {task: bench.original(path, task) for task, path in sorted(finetunes.items())}
        for task, score in originals.items():
            if score <= 0:
                raise InputError(
                    f"the original of task {task!r} has the score {score:g}, not above 0"
                )
        low, high = dict.fromkeys(originals, 0), dict.fromkeys(originals, len(GRID))
        scores: dict[str, dict[float, float]] = {task: {} for task in originals}
        while asked := {t: (low[t] + high[t]) // 2 for t in originals if low[t] < high[t]}:
            bits = {task: GRID[k] for task, k in asked.items()}
            trial = replace(options, tiers="rest", residuals=bits, overwrite=False)
            with scratch_folder(mirror.here(target), scratch) as folder:
                some = {task: finetunes[task] for task in bits}
                pack(base, some, folder / "store", trial, progress)
                store = open_store(folder / "store", base=base)
                for task, k in asked.items():
                    score = bench.rebuilt(store, task, task, f"{bits[task]:g} bits")
                    scores[task][bits[task]] = score
                    enough = score >= share * originals[task]
                    _log.info(
                        "%r: %g bits are %senough", task, bits[task], "" if enough else "not "
                    )
                    low[task], high[task] = (low[task], k) if enough else (k + 1, high[task])
        missed = [task for task in originals if low[task] == len(GRID)]
        chosen = {
            task: max(scores[task], key=lambda b: (scores[task][b], -b))
            if task in missed
            else GRID[low[task]]
            for task in originals
        }
        reached = {task: scores[task][chosen[task]] / originals[task] for task in originals}
        if missed and not anyway:
            raise TargetNotReached(share, {task: (reached[task], chosen[task]) for task in missed})
        report = pack(base, finetunes, target, replace(options, residuals=chosen), progress)
    return Aimed(chosen, reached, scores, report)
