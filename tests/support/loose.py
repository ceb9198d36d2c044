"""Writers and readers of one store, each for a process of its own."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path

import taskstore
from taskstore.errors import ChangedMeanwhile, OutputError
from taskstore.locations import locks, publish
from taskstore.packing import revise
from taskstore.store.verify import verify
from tests.support.families import contents


@dataclass
class Wrote:
    """`there`: task -> whether it was added last, or removed; `refused`: how often."""

    there: dict[str, bool] = field(default_factory=dict)
    refused: int = 0


def write(path: Path, who: str, model: Path, seconds: float, *, exchange: bool) -> Wrote:
    """Add tasks and remove them again, in turn with patience, as the command, and without."""
    if not exchange:
        publish._exchange = lambda *_: False
    wrote, until, turn = Wrote(), time.monotonic() + seconds, 0
    while time.monotonic() < until:
        turn += 1
        own = [task for task, there in wrote.there.items() if there]
        task = own[0] if len(own) > 2 else f"{who}{turn}"
        try:
            if turn % 2:
                with locks.waiting(60), publish.alone(path):
                    _change(taskstore.open(path), task, model, adds=task not in own)
            else:
                store = taskstore.open(path)
                time.sleep(0.1)  # in which the other may change it
                _change(store, task, model, adds=task not in own)
        except OutputError as error:
            if not isinstance(error, ChangedMeanwhile) and "is being written" not in str(error):
                raise
            wrote.refused += 1
            continue
        wrote.there[task] = task not in own
    return wrote


def _change(store: taskstore.Store, task: str, model: Path, *, adds: bool) -> None:
    if adds:
        revise.add(store, {task: model})
    else:
        taskstore.remove(store, [task])


def read(path: Path, models: dict[str, Path], target: Path, seconds: float) -> int:
    """Rebuild and verify; return how often that came to an end. `models`: by first letter."""
    whole, until, turn = 0, time.monotonic() + seconds, 0
    while time.monotonic() < until:
        turn += 1
        store = taskstore.open(path)
        task = store.tasks[turn % len(store.tasks)]
        found = contents(store.unpack(task, target, overwrite=True, jobs=1))
        report = verify(store, deep=turn % 2 == 0, jobs=1)
        original = contents(models[task[0]])
        assert {name: found[name] for name in original} == original, task
        assert report.ok, report.problems
        whole += 1
    return whole
