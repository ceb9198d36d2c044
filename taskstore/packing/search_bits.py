"""Find the smallest store that is good enough: bits per task, by measurement.

A store is good enough by one of two measures: a share of the fine-tune's score, by the user's own
evaluation of rebuilt models; or, without any, the error of format/fidelity.py. Both use the
tier `rest` alone: at every rate it keeps more than masks do (docs/fidelity.md).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taskstore.errors import InputError, OptionError, TargetNotReached
from taskstore.evaluation.bench import Bench
from taskstore.executors import threads
from taskstore.format.fidelity import of_sums
from taskstore.format.manifest import Sums
from taskstore.format.tiers import ABOVE, BlockSpec
from taskstore.kernels import cpu
from taskstore.kernels.products import four_sums
from taskstore.locations import publish
from taskstore.locations.base import PathLike
from taskstore.locations.scratch import scratch as scratch_folder
from taskstore.merging.task_vectors import Block, blocks, read_base
from taskstore.models.compare import Plan
from taskstore.models.family import Family, open_family
from taskstore.packing.driver import pack, pack_family
from taskstore.packing.options import PackOptions
from taskstore.packing.plan import make as make_plan
from taskstore.packing.report import PackReport
from taskstore.progress import Callback, silent
from taskstore.store import open as open_store
from taskstore.store.contents import not_of_a_store

_log = logging.getLogger(__name__)
GRID = (0.75, 1.0, 1.25, 1.5, 2.0, 2.5, 3.0, 4.0)  # bits per parameter, about
ROUNDS = 1 + len(GRID).bit_length()  # evaluations of a task, at most: its original, and bisection
FINEST = 8.0
SAMPLE = 64  # blocks on which an error is first measured


@dataclass(frozen=True)
class Aimed:
    """What was chosen: bits per task, what they reach, and the store packed with them.

    reached   task -> share of the fine-tune's score, or error
    scores    task -> bits -> score, where models were evaluated
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
                "scores": {f"{bits:g}": s for bits, s in self.scores.get(task, {}).items()},
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
    with publish.alone(Path(target)):
        publish.check_target(
            Path(target).absolute(), overwrite=options.overwrite, foreign=not_of_a_store
        )
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
            with scratch_folder(target, scratch) as folder:
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


def aim_at_error(
    base: PathLike,
    finetunes: Mapping[str, PathLike],
    target: PathLike,
    most: float,
    *,
    options: PackOptions | None = None,
    progress: Callback = silent,
) -> Aimed:
    """Pack with about the fewest bits at which no task's error is above `most`.

    The error is that of format/fidelity.py: |rebuilt - fine-tune| / |fine-tune| + 0.2 |1 -
    projection| over the tensors that are quantised. The bits are found on a sample of blocks, then
    proved on all of them. Raises InputError.
    """
    options = with_rest_alone(options or PackOptions())
    if not (math.isfinite(most) and most > 0):
        raise OptionError(f"max-error {most} is not a number above 0")
    publish.check_target(
        Path(target).absolute(), overwrite=options.overwrite, foreign=not_of_a_store
    )
    options.check_tasks(finetunes)
    with publish.alone(Path(target)), closing(open_family(base, finetunes)) as family:
        plan = make_plan(family, "rest", options.keep_private)
        bits: dict[str, float] = {}
        reached: dict[str, float] = {}
        for t, task in enumerate(family.tasks):
            found = _fewest(lambda b: rest_error(family, plan, t, b, options, sample=True), most)  # noqa: B023
            error = rest_error(family, plan, t, found, options)
            while error > most and found < FINEST:
                found = min(FINEST, found + 0.0625)
                error = rest_error(family, plan, t, found, options)
            if error > most:
                raise InputError(
                    f"task {task.name!r} has an error of {error:.2g} at {FINEST:g} bits, above "
                    f"{most:g}: its dtype holds no more; keep it exact (--tiers exact)"
                )
            bits[task.name], reached[task.name] = found, error
            _log.info("%r: %g bits reach an error of %.3g", task.name, found, error)
        report = pack_family(family, Path(target), replace(options, residuals=bits), progress)
    return Aimed(bits, reached, {}, report)


def _fewest(error: Any, most: float) -> float:
    """Bits from a quarter to FINEST, to a sixteenth, at which a falling error is at most `most`."""
    low, high = 4, int(FINEST * 16)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if error(middle / 16) <= most else (middle + 1, high)
    return low / 16


def rest_error(
    family: Family, plan: Plan, t: int, bits: float, options: PackOptions, *, sample: bool = False
) -> float:
    """Measure the error (format/fidelity.py) of task `t`, whose lowest tier is the rest.

    It runs over all quantised tensors, or over a sample of about SAMPLE blocks, spread over them.
    """
    tensors = [
        (name, info)
        for name, info in sorted(family.base.tensors.items())
        if t in plan.tasks_of(name, "rest") and name not in plan.aliases and info.numel
    ]
    every = [b for name, info in tensors for b in blocks(name, info, (t,), options.chunk)]
    if sample and len(every) > SAMPLE:
        every = [every[k] for k in np.linspace(0, len(every) - 1, SAMPLE).round().astype(int)]

    found = threads(options.jobs).map(_sums, (family, t, bits), every)
    return of_sums(Sums.of(sum(found, np.zeros(4)).tolist())).error or 0.0


def _sums(shared: tuple[Family, int, float], block: Block) -> NDArray[np.float64]:
    """Return the four sums of a block."""
    family, t, bits = shared
    task, w0_N = family.tasks[t], read_base(family, block)
    dtype, label = task.tensors[block.name].dtype, (task.name, block.name)
    theta_N = task.read(block.name, block.start, block.stop)
    below_N = cpu.cast(w0_N, block.info.dtype, dtype)
    spec = BlockSpec(dtype, block.info.shape, block.start, bits, archive=False, label=label)
    _, rebuilt_N = ABOVE["rest"].encode(theta_N, below_N, spec)
    vector = cpu.task_vector_of(theta_N, dtype, w0_N, block.info.dtype)
    return four_sums(*vector, rebuilt_N, dtype)
