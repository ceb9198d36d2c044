"""Tasks with a rest: spans of an engine's memory, and swaps that rebuild them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest
import torch
from taskstore_serving.weights.family import LiveFamily
from torch import Tensor, nn

import taskstore
from taskstore.errors import SwapError
from tests.serving.weights.test_family import Fused
from tests.support import families
from tests.support.families import same


def packed_with(small: families.Family, target: Path, **changes: object) -> taskstore.Store:
    options = families.options(**{"tiers": "mask,rest", "residual": 2.0, **changes})
    taskstore.pack(small.base_path, small.paths, target, options)
    return taskstore.open(target)


@pytest.fixture(scope="module")
def store(small: families.Family, tmp_path_factory: pytest.TempPathFactory) -> taskstore.Store:
    return packed_with(small, tmp_path_factory.mktemp("rests") / "store")


def state(
    store: taskstore.Store, task: str | None, tier: str, kind: type[Fused] = Fused
) -> Mapping[str, Tensor]:
    model = kind()
    model.load_weights(store.state_dict(task, tier=task and tier).items())
    return model.state_dict()


def swaps(
    model: nn.Module, family: LiveFamily, wanted: Mapping[str | None, Mapping[str, Tensor]]
) -> None:
    for task in (None, "beta", "alpha", None, "gamma", "alpha", "beta", None):
        family.swap(task)
        live = model.state_dict()
        assert all(same(live[name], wanted[task][name]) for name in live)


@pytest.mark.parametrize("tiers", ["mask,rest", "rest"])
def test_every_swap_gives_what_loading_with_the_rest_gives(
    small: families.Family, tmp_path: Path, tiers: str
) -> None:
    store, model = packed_with(small, tmp_path / "store", tiers=tiers), Fused()
    family = LiveFamily(model, store, store.tasks, residual=1)
    wanted = {task: state(store, task, "rest") for task in (None, *store.tasks)}
    swaps(model, family, wanted)
    family.guard(model)
    family.verify_all()
    found = family.state()
    assert {task["tier"] for task in found["tasks"].values()} == {"rest"}
    sizes = found["memory"]
    assert sizes["base"] > 0 and sizes["vectors"] > 0
    assert (sizes["delta"] > 1000) == ("mask" in tiers)  # the padding of a fused one has its D


def test_without_residual_the_masks_alone_are_served(store: taskstore.Store) -> None:
    model = Fused()
    family = LiveFamily(model, store, store.tasks)
    swaps(model, family, {task: state(store, task, "mask") for task in (None, *store.tasks)})
    assert {task["tier"] for task in family.state()["tasks"].values()} == {"mask"}


def test_a_task_without_masks_names_the_way_to_serve_it(
    small: families.Family, tmp_path: Path
) -> None:
    store = packed_with(small, tmp_path / "store", tiers="rest")
    with pytest.raises(SwapError, match=r"has no mask, only a rest \(--tier rest serves it\)"):
        LiveFamily(Fused(), store, store.tasks)


def test_tasks_with_a_rest_come_and_go(store: taskstore.Store) -> None:
    model = Fused()
    family = LiveFamily(model, store, ["alpha"], residual=1)
    before = family.state()["memory"]
    family.add("beta")
    family.add("gamma")
    swaps(model, family, {task: state(store, task, "rest") for task in (None, *store.tasks)})
    family.swap("beta")
    assert family.state()["memory"]["vectors"] > before["vectors"]
    family.remove("beta")
    family.remove("gamma")
    assert family.active is None and family.state()["memory"] == before
    family.verify_all()


class Transposing(Fused):
    """A square piece of one tensor, turned."""

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> set[str]:
        name = "layers.0.attn.weight"
        return super().load_weights((n, w.t().contiguous() if n == name else w) for n, w in weights)


class Sharding(Fused):
    """Every other row of one matrix alone."""

    def __init__(self) -> None:
        super().__init__()
        weight = torch.zeros(8, 64, dtype=torch.bfloat16)
        self.layers_1_mlp_weight = nn.Parameter(weight, requires_grad=False)

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> set[str]:
        name = "layers.1.mlp.weight"
        return super().load_weights((n, w[::2] if n == name else w) for n, w in weights)


@pytest.mark.parametrize(
    ("kind", "tensor", "problem"),
    [
        (Transposing, "layers.0.attn.weight", "is turned or reordered"),
        (Sharding, "layers.1.mlp.weight", "is cut or scattered"),
        (lambda: Fused(torch.float32), ".*", "is BF16 and becomes F32"),
    ],
)
def test_what_does_not_land_whole_is_refused_with_a_rest_and_served_without(
    store: taskstore.Store, kind: type[Fused], tensor: str, problem: str
) -> None:
    with pytest.raises(
        SwapError, match=rf"tensor '{tensor}' of task 'alpha' {problem} .*--tier mask"
    ):
        LiveFamily(kind(), store, store.tasks, residual=1)
    model = kind()
    family = LiveFamily(model, store, store.tasks)
    family.guard(model)
    family.verify_all()


def test_a_tensor_that_had_no_rest_at_the_start_takes_none_later(
    small: families.Family, packed: Path, store: taskstore.Store, tmp_path: Path
) -> None:
    family = LiveFamily(Fused(), taskstore.open(packed), ["alpha"], residual=1)
    family._where = (store.path, None)
    family._loaded = LiveFamily(Fused(), store, [], residual=1)._loaded
    with pytest.raises(SwapError, match="of task 'beta' had a rest in no task when the engine"):
        family.add("beta")
