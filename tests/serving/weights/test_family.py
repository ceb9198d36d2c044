"""D and masks read off a loader that fuses, ties and pads; no engine needed."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from taskstore_serving.weights.family import LiveFamily
from torch import Tensor, nn

import taskstore
from taskstore.errors import SwapError, UnknownTask
from tests.support import families
from tests.support.families import same

PAD = 3


class Fused(nn.Module):
    """Two matrices of a layer are one parameter, rows are padded, the rest is as it is."""

    def __init__(self, dtype: torch.dtype = torch.bfloat16) -> None:
        super().__init__()
        shapes = families.SHAPES
        wide = 33 * 31 + 7 + PAD
        self.fused = nn.Parameter(torch.zeros(wide, dtype=dtype), requires_grad=False)
        self.places = {"layers.0.attn.weight": (0, 33 * 31), "layers.0.bias": (33 * 31, 7)}
        others = [name for name in shapes if name not in self.places]
        self.own = {name: name.replace(".", "_") for name in others}
        for name, attribute in self.own.items():
            weight = nn.Parameter(torch.zeros(shapes[name], dtype=dtype), requires_grad=False)
            setattr(self, attribute, weight)

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> set[str]:
        written = set()
        for name, weight in weights:
            if name in self.places:
                at, size = self.places[name]
                self.fused.data[at : at + size].copy_(weight.view(-1))
                written.add("fused")
            else:
                getattr(self, self.own[name]).data.copy_(weight)
                written.add(self.own[name])
        return written


def loaded(state: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    model = Fused(dtype)
    model.load_weights(state.items())
    return dict(model.state_dict())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float16])
def test_every_swap_gives_what_loading_gives(packed: Path, dtype: torch.dtype) -> None:
    store, model = taskstore.open(packed), Fused(dtype)
    wanted = {task: loaded(store.state_dict(task), dtype) for task in (None, *store.tasks)}
    family = LiveFamily(model, store, store.tasks)
    for task in (None, "beta", "alpha", None, "gamma", "alpha", "beta", None):
        family.swap(task)
        live = model.state_dict()
        assert all(same(live[name], wanted[task][name]) for name in live)
        assert family.active == task
    with pytest.raises(UnknownTask):
        family.swap("delta")
    family.guard(model)


def test_the_guard_names_what_was_moved_changed_or_dropped(packed: Path) -> None:
    store = taskstore.open(packed)

    def moved(model: Fused) -> None:
        model.fused.data = model.fused.data.clone()

    def changed(model: Fused) -> None:
        model.fused.data.mul_(2)

    def dropped(model: Fused) -> None:
        del model.fused

    for spoil, word in ((moved, "moved"), (changed, "changed"), (dropped, "removed")):
        model = Fused()
        family = LiveFamily(model, store, store.tasks)
        spoil(model)
        with pytest.raises(SwapError, match=f"weight 'fused' was {word}"):
            family.guard(model)


def test_a_loader_that_computes_is_refused(packed: Path) -> None:
    class Computing(Fused):
        """Scales by the largest weight, so equal weights are loaded as different ones."""

        def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> set[str]:
            return super().load_weights((n, w / w.abs().max()) for n, w in weights)

    store = taskstore.open(packed)
    with pytest.raises(SwapError, match="is no selection"):
        LiveFamily(Computing(), store, store.tasks)


def test_a_loader_that_is_silent_is_refused(packed: Path) -> None:
    class Silent(Fused):
        def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> set[str]:
            super().load_weights(weights)
            return None  # type: ignore[return-value]

    store = taskstore.open(packed)
    with pytest.raises(SwapError, match="Silent's loader does not tell"):
        LiveFamily(Silent(), store, store.tasks)


def test_tasks_with_tensors_of_their_own_are_refused_by_name(tmp_path: Path) -> None:
    base, tasks = families.rich_states()
    family = families.Family(tmp_path, base, tasks)
    taskstore.pack(family.base_path, family.paths, tmp_path / "store", families.options())
    opened = taskstore.open(tmp_path / "store")
    for task, tensor in (("two", "embed_tokens.weight"), ("three", "empty")):
        with pytest.raises(SwapError, match=f"task '{task}' cannot be served .*'{tensor}'"):
            LiveFamily(Fused(), opened, [task])


def test_a_swap_that_failed_is_undone_and_the_next_succeeds(
    packed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, model = taskstore.open(packed), Fused()
    family = LiveFamily(model, store, store.tasks)
    family.swap("alpha")
    wanted = {task: loaded(store.state_dict(task), torch.bfloat16) for task in store.tasks}
    lane = family.beside.lane
    flip, calls = lane._swap, []

    def failing(old: object, new: object, d: object, w: object) -> None:
        calls.append(1)
        if len(calls) == 3:
            raise MemoryError("no room")
        flip(old, new, d, w)

    monkeypatch.setattr(lane, "_swap", failing)
    with pytest.raises(SwapError, match=r"swap to task 'beta' failed and was undone, task 'alpha'"):
        family.swap("beta")
    swaps = family.swaps
    assert family.active == "alpha"
    assert all(same(tensor, wanted["alpha"][n]) for n, tensor in model.state_dict().items())
    family.swap("beta")
    assert all(same(tensor, wanted["beta"][n]) for n, tensor in model.state_dict().items())
    assert family.swaps == swaps + 1


def test_after_a_swap_that_could_not_be_undone_nothing_is_served(
    packed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    family = LiveFamily(Fused(), taskstore.open(packed), ["alpha", "beta"])

    def failing(*_: object) -> None:
        raise MemoryError("no room")

    mover = family._mover
    assert mover is not None
    monkeypatch.setattr(mover, "_run", failing)
    monkeypatch.setattr(family.beside.lane, "run", failing)
    with pytest.raises(SwapError, match="could not be undone"):
        family.swap("beta")
    for call in (family.swap, family.add, family.verify):
        with pytest.raises(SwapError, match="nobody knows what is live"):
            call("alpha" if call != family.add else "gamma")


@pytest.mark.parametrize("undone", [True, False])
def test_a_family_recovers_from_a_failed_swap(packed: Path, undone: bool) -> None:
    """To the base, read anew where half of a task is live and nobody knows which half."""
    store, model = taskstore.open(packed), Fused()
    wanted = {task: loaded(store.state_dict(task), torch.bfloat16) for task in (None, "alpha")}
    family = LiveFamily(model, store, store.tasks)
    family.swap("beta")
    lane, faults = family.beside.lane, [True] * (1 if undone else 2)

    def run(units: Any, old: Any, new: Any, done: Any) -> None:
        if faults:
            faults.pop()
            type(lane).run(lane, islice(units, 1), old, new, done)
            raise RuntimeError("the bus is gone")
        type(lane).run(lane, units, old, new, done)

    lane.run = run  # type: ignore[method-assign]
    with pytest.raises(SwapError, match="was undone" if undone else "could not be undone"):
        family.swap("alpha")
    family.recover()
    for task in (None, "alpha", None):
        family.swap(task)
        live = model.state_dict()
        assert all(same(live[name], wanted[task][name]) for name in live)
    assert len(family.verify_all()) == 1 + len(store.tasks)
