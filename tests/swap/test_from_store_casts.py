"""Modules that hold a part of their weights in another float dtype than the store."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import taskstore
from taskstore.errors import UnknownWeights
from tests.support import families
from tests.support.modules import Named, holds

CASTS = [(torch.bfloat16, torch.float32), (torch.float32, torch.bfloat16)]


@pytest.mark.parametrize("tiers", ["mask", "exact"])
@pytest.mark.parametrize(("stored", "live"), CASTS, ids=["wider", "narrower"])
def test_some_tensors_are_cast_at_each_swap(
    stored: torch.dtype, live: torch.dtype, tiers: str, tmp_path: Path
) -> None:
    base = {n: v.to(stored) for n, v in families.random_state(0).items()}
    tasks = {name: families.tuned(base, i) for i, name in enumerate("ab")}
    family = families.Family(tmp_path, base, tasks)
    options = families.options(tiers=tiers)
    taskstore.pack(family.base_path, family.paths, tmp_path / "store", options)
    store = taskstore.open(tmp_path / "store")

    def expected(task: str | None) -> families.State:
        state = store.state_dict(task)
        return {n: v.to(live) if ".0." in n or "norm" in n else v for n, v in state.items()}

    module = Named(expected("a"))
    cast = [value for value in expected("a").values() if value.dtype == live]
    with taskstore.attach(module, store) as attached:
        own = sum(value.numel() * value.element_size() for value in cast)
        assert attached.memory().values >= 3 * own
        for task in ("b", None, "a", "b"):
            attached.swap(task)
            attached.verify()
            assert holds(module, expected(task))
    with torch.no_grad():
        module.get_parameter("norm.weight").add_(1)
    with pytest.raises(UnknownWeights, match=r"'norm.weight' for one"):
        taskstore.attach(module, store)
