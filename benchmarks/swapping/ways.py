"""What is timed against each other: swapping, and what one would do otherwise.

Each way moves on to another task on every call, so that no masks, files or deltas stay in a cache
that they would not be in otherwise. The other ways work on a module of their own: they leave
weights that are no task of the store.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from torch import Tensor, nn

from benchmarks.common.cache import Cache
from benchmarks.common.family import files_of, weights_of
from benchmarks.swapping.clock import Way, is_cuda
from benchmarks.swapping.module import copy_all, read_tensors
from taskstore.store import Store
from taskstore.swap import Attached

Models = Mapping[str, Path]  # task -> folder of the fine-tune


class Turns:
    """The tasks over and over; `current` is whose turn it is."""

    def __init__(self, tasks: Sequence[str]) -> None:
        self._round = itertools.cycle(tasks)
        self.current = ""

    def next(self) -> None:
        self.current = next(self._round)


def swap(name: str, attached: Attached, tasks: Sequence[str]) -> Way:
    """From task to task; a family of one goes to the base and back."""
    models: list[str | None] = [*tasks] if len(tasks) > 1 else [*tasks, None]
    turns = itertools.cycle(models)
    attached.swap(models[-1])
    return Way(name, lambda: attached.swap(next(turns)))


def copy(live: Sequence[Tensor], buffers: Sequence[Tensor]) -> Way:
    """The same bytes, into buffers that are there."""
    return Way("copy", lambda: copy_all(live, buffers))


def reload(models: Models, module: nn.Module, device: str) -> Way:
    """The fine-tune's own files, which are in the page cache."""
    turns, own = Turns(list(models)), module.state_dict().keys()

    def call() -> None:
        tensors = read_tensors(weights_of(models[turns.current]), device)
        module.load_state_dict({name: t for name, t in tensors.items() if name in own})

    return Way("reload", call, before=_warm(turns, lambda task: weights_of(models[task])))


def delta(base: Path, models: Models, module: nn.Module, device: str) -> Way:
    """W -= the delta of one task, W += that of another, each in the dtype of the weights.

    Both deltas are in memory; there is one of the model's size for each task one serves. The
    weights drift with each round, which is the other reason not to do this.
    """
    state, tasks = module.state_dict(), list(models)
    weights = list(state.values())
    deltas = [_delta(base, models[task], list(state), device) for task in (tasks[0], tasks[-1])]
    turns = itertools.cycle([(deltas[0], deltas[1]), (deltas[1], deltas[0])])

    def call() -> None:
        for weight, old, new in zip(weights, *next(turns), strict=True):
            weight -= old
            weight += new

    return Way("delta", call)


def _delta(base: Path, model: Path, names: Sequence[str], device: str) -> list[Tensor]:
    of_base = read_tensors(weights_of(base), device)
    of_model = read_tensors(weights_of(model), device)
    return [of_model[name] - of_base[name] for name in names]


def load(store: Store, device: str) -> Way:
    """A task out of the store, rebuilt and checked."""
    turns = Turns(store.tasks)

    def files(task: str) -> list[Path]:
        return [store.path / file for file in store.files_of(task)]

    def call() -> dict[str, Tensor]:
        return store.state_dict(turns.current, device=device)

    return Way("load", call, before=_warm(turns, files))


def load_file(models: Models, device: str) -> Way:
    """The fine-tune itself; on the CPU it is mapped, so only a copy has read it all."""
    turns = Turns(list(models))
    mapped = not is_cuda(device)

    def call() -> dict[str, Tensor]:
        tensors = read_tensors(weights_of(models[turns.current]), device)
        return {name: t.clone() if mapped else t for name, t in tensors.items()}

    return Way("load_file", call, before=_warm(turns, lambda task: weights_of(models[task])))


def attach(name: str, attach_all: Callable[[], Attached], store: Store) -> Way:
    """All tasks, to a module that holds the base; taken off again outside the clock."""

    def prepare() -> None:
        Cache("warm").prepare(files_of(store.path))

    return Way(name, attach_all, before=prepare, after=Attached.close)


def _warm(turns: Turns, files: Callable[[str], Sequence[Path]]) -> Callable[[], None]:
    """Before a call: the next task, and its files read once."""

    def prepare() -> None:
        turns.next()
        Cache("warm").prepare(files(turns.current))

    return prepare
