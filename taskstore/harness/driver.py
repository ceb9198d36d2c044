"""Score the models of a store, and record the scores in it: `taskstore.evaluate`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from taskstore.devices import Device
from taskstore.errors import InputError
from taskstore.evaluation import bench as benches
from taskstore.evaluation.bench import Bench, Evaluation, as_bench
from taskstore.evaluation.command import Command, Evaluator
from taskstore.evaluation.journal import Journal
from taskstore.harness.live_models import Function, LiveModels
from taskstore.locations.base import PathLike
from taskstore.packing import revise
from taskstore.progress import Callback, silent
from taskstore.public import public
from taskstore.store.store import Store, opened


@public
def evaluate(
    store: Store | PathLike,
    evaluator: str | Evaluator | Bench | None = None,
    *,
    callback: Function | None = None,
    tasks: Sequence[str] | None = None,
    originals: Mapping[str, PathLike] | None = None,
    base: bool = False,
    record: str | None = None,
    journal: PathLike | None = None,
    device: Device | None = None,
    jobs: int | None = None,
    progress: Callback = silent,
) -> Evaluation:
    """Score every task's model at each of its tiers, and the base and the originals if asked for.

    Models are scored either by `evaluator`, a command with {model} and {task} or a function of a
    model folder and a task; or by `callback`, a function of a live transformers model, its
    tokenizer (None where it has none) and a task. The live model is loaded once and swapped in
    place, on `device` (None: a GPU where there is one). `LmEval` is such a callback.

    `tasks` None is all of them. `originals` maps tasks to the folders of their fine-tunes. `record`
    writes the scores into the store, under that name. `journal` is a file of scores: what it has is
    not scored again. A score may be a float with an attribute `n`, its number of examples. Raises
    UnknownTask, InputError or EvaluationFailed; BadName for a `record` that no store may hold.

    >>> from evaluate import load_items, share_right  # examples/evaluate.py
    >>> def exact_match(model, tokenizer, task):
    ...     tokenizer.padding_side = "left"
    ...     return share_right(model, tokenizer, load_items(task, limit=20))
    >>> found = taskstore.evaluate("numerals", callback=exact_match, tasks=["english", "roman"])
    >>> [(score.task, score.rebuilt > 0.8) for score in found.scores]
    [('english', True), ('roman', True)]
    """
    store = opened(store)
    bench = _bench(store, evaluator, callback, tasks, device, jobs)
    if journal is not None:
        bench = replace(bench, journal=Journal(Path(journal)))
    if record is not None:
        revise.check_record(store, record)
    found = benches.evaluate(
        store, bench, tasks=tasks, originals=originals, base=base, progress=progress
    )
    if record is not None:
        revise.record(store, record, {s.task: s.to_record() for s in found.scores})
    return found


def _bench(
    store: Store,
    evaluator: str | Evaluator | Bench | None,
    callback: Function | None,
    tasks: Sequence[str] | None,
    device: Device | None,
    jobs: int | None,
) -> Bench:
    if (evaluator is None) == (callback is None):
        raise InputError("give either an evaluator of model folders or a callback of live models")
    if callback is None:
        assert evaluator is not None
        if device is not None:
            raise InputError("device is of live models; leave it out, or give a callback")
        bench = as_bench(evaluator)
        return replace(bench, label=bench.label or _label(bench.evaluator))
    for task in tasks or ():
        store.check_task(task)
    models = LiveModels(callback, tasks, device=device, jobs=jobs)
    return Bench(models, Journal(None), label=_label(callback))


def _label(evaluator: object) -> str:
    """What stands for an evaluator in a journal."""
    named = evaluator.label if isinstance(evaluator, Command) else getattr(evaluator, "label", "")
    return str(named or getattr(evaluator, "__qualname__", type(evaluator).__qualname__))
