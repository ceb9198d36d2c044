"""Swaps of tier `rest`: rebuilt from the base's weights each time, exact, all or nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import taskstore
from taskstore.errors import InputError, SwapError
from taskstore.kernels import device_ops as kernel_vectors
from taskstore.kernels import dispatch, reference
from taskstore.swap import driver, rest_units
from taskstore.swap.lane import Lane
from taskstore.swap.staged_lane import StagedLane
from tests.support import families
from tests.support.modules import Named, holds

STATES = ["alpha", "beta", "gamma", None]


@pytest.fixture(params=["host", "torch"])
def vectors(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways to add vectors; torch's, which a GPU has, on the CPU."""
    if request.param == "torch":
        cpu = torch.device("cpu")
        monkeypatch.setattr(
            kernel_vectors, "kernel_for", lambda _: (reference.swap, dispatch._view)
        )
        monkeypatch.setattr(rest_units, "vectors_for", lambda _: kernel_vectors.TorchVectors(cpu))


@pytest.mark.parametrize("kind", [Lane, StagedLane])
@pytest.mark.parametrize("tiers", ["rest", "mask,rest", "mask,rest,exact"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_vectors_are_added_and_taken_away(
    vectors: None, kind: type[Lane], tiers: str, dtype: torch.dtype, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Every pair of states, bit for bit what the loader rebuilds; the base comes back exactly."""
    monkeypatch.setattr(driver, "lane_class", lambda *_: kind)
    family = families.family(tmp_path, dtype=dtype)
    options = families.options(tiers=tiers, residual=2.5)
    taskstore.pack(family.base_path, family.paths, tmp_path / "s", options)
    store = taskstore.open(tmp_path / "s")
    module = Named(store.state_dict("alpha", tier="rest"))
    with taskstore.attach(module, store, tier="rest") as attached:
        for a in STATES:
            for b in STATES:
                attached.swap(a)
                attached.swap(b)
                assert holds(module, store.state_dict(b, tier="rest" if b else None))
        assert attached.verify().tensors == len(family.base)
        assert attached.memory().base == sum(w.nbytes for w in family.base.values())
        assert (attached.memory().delta > 0) == ("mask" in tiers)


def test_the_tier_that_is_attached(small: families.Family, tmp_path: Path) -> None:
    options = families.options(tiers="mask,rest,exact")
    taskstore.pack(small.base_path, small.paths, tmp_path / "s", options)
    store = taskstore.open(tmp_path / "s")
    for tier, live in ((None, "mask"), ("mask", "mask"), ("rest", "rest"), ("exact", None)):
        module = Named(store.state_dict(None))
        with taskstore.attach(module, store, tier=tier) as attached:
            attached.swap("beta")
            assert holds(module, store.state_dict("beta", tier=live))
            assert (attached.memory().base > 0) == (tier == "rest")
    with pytest.raises(InputError, match="no tier 'more'"):
        taskstore.attach(Named(store.state_dict(None)), store, tier="more")


def test_one_task_is_exact_alone(small: families.Family, tmp_path: Path) -> None:
    """Without `tier` each task swaps to its best; a tier takes the tasks that have it alone."""
    taskstore.pack(small.base_path, small.paths, tmp_path / "s", families.options(tiers="rest"))
    gamma = {"gamma": small.paths["gamma"]}
    taskstore.replace(tmp_path / "s", gamma, taskstore.AddOptions(tiers="exact"))
    store = taskstore.open(tmp_path / "s")
    module = Named(store.state_dict(None))
    with taskstore.attach(module, store) as attached:
        for state in [*STATES, "gamma", "alpha"]:
            attached.swap(state)
            assert holds(module, store.state_dict(state))
        attached.swap("gamma")
        assert holds(module, small.tasks["gamma"])
        attached.swap(None)
    with pytest.raises(InputError, match="'gamma' has no tier 'rest'; it has exact"):
        taskstore.attach(module, store, tier="rest")
    with taskstore.attach(module, store, ["alpha", "beta"], tier="rest") as attached:
        attached.swap("beta")
        assert holds(module, store.state_dict("beta"))
        assert attached.memory().vectors > 0


def test_a_vector_that_fails_is_undone(
    small: families.Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = families.options(tiers="rest")
    taskstore.pack(small.base_path, small.paths, tmp_path / "s", options)
    store = taskstore.open(tmp_path / "s")
    module = Named(store.state_dict("alpha"))
    with taskstore.attach(module, store, jobs=1) as attached:
        calls = 0
        whole = kernel_vectors.HostVectors.add

        def add(*arguments: Any) -> None:
            nonlocal calls
            calls += 1
            whole(*arguments)
            if calls == 5:
                raise RuntimeError("a broken kernel")

        monkeypatch.setattr(kernel_vectors.HostVectors, "add", add)
        with pytest.raises(SwapError, match=r"undone.*a broken kernel"):
            attached.swap("beta")
        assert holds(module, store.state_dict("alpha"))
        attached.swap("beta")
    assert holds(module, store.state_dict("beta"))
