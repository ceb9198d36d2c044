"""Tasks that come to and go from a live family, and the proof of what is live."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from taskstore_serving.weights import learning
from taskstore_serving.weights.digests import shared_digests, task_digest
from taskstore_serving.weights.family import LiveFamily
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

import taskstore
from taskstore.errors import (
    ChecksumMismatch,
    NotEnoughMemory,
    SwapError,
    UnknownTask,
    UnknownWeights,
)
from tests.serving.weights.test_family import Fused, loaded
from tests.support import families
from tests.support.families import same


def served(packed: Path, *tasks: str, live: str | None = None) -> tuple[LiveFamily, Fused]:
    model = Fused()
    family = LiveFamily(model, taskstore.open(packed), tasks)
    family.guard(model)
    family.swap(live)
    return family, model


def holds(model: Fused, packed: Path, task: str | None) -> bool:
    wanted = loaded(taskstore.open(packed).state_dict(task), torch.bfloat16)
    live = model.state_dict()
    return all(same(live[name], wanted[name]) for name in wanted)


def test_a_task_is_learned_beside_the_one_that_is_live(packed: Path) -> None:
    family, model = served(packed, "alpha", live="alpha")
    family.add("beta")
    assert family.active == "alpha" and holds(model, packed, "alpha")
    for task in ("beta", "alpha", None, "beta"):
        family.swap(task)
        assert holds(model, packed, task)
    assert [found["task"] for found in family.verify_all()] == [None, "alpha", "beta"]
    with pytest.raises(SwapError, match="task 'beta' is served already; remove it first"):
        family.add("beta")
    with pytest.raises(UnknownTask):
        family.add("delta")


def test_a_removed_task_frees_its_masks_and_leaves_the_base_live(packed: Path) -> None:
    family, model = served(packed, "alpha", "beta", live="beta")
    storage: Any = family.beside.lane.masks["beta"].untyped_storage()
    reference: Any = StorageWeakRef
    arena = reference(storage)
    del storage
    memory = family.state()["memory"]
    family.remove("beta")
    assert arena.expired()
    assert family.active is None and holds(model, packed, None)
    assert family.tasks == ["alpha"]
    assert family.state()["memory"]["masks"] == memory["masks"] // 2
    for call in (family.swap, family.remove, family.verify):
        with pytest.raises(UnknownTask):
            call("beta")
    family.add("beta")
    family.swap("beta")
    assert holds(model, packed, "beta")


def test_a_failed_addition_leaves_everything_as_it_was(
    packed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    family, model = served(packed, "alpha", live="alpha")
    before, load = family.state(), model.load_weights

    def half(weights: Iterable[tuple[str, Tensor]]) -> set[str]:
        load(weights)
        raise OSError("the disk is gone")

    monkeypatch.setattr(model, "load_weights", half)
    with pytest.raises(SwapError, match="could not be added, all is as it was: OSError: the disk"):
        family.add("beta")
    after = family.state()
    assert {k: after[k] for k in ("active", "tasks", "memory")} == {
        k: before[k] for k in ("active", "tasks", "memory")
    }
    assert holds(model, packed, "alpha")
    monkeypatch.undo()
    family.add("beta")
    family.swap("beta")
    assert holds(model, packed, "beta")


def test_an_addition_from_another_store_or_a_damaged_one_is_refused(
    small: families.Family, packed: Path, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    shutil.copytree(packed, store)
    family, model = served(store, "alpha")
    mask = next((store / "tasks" / "beta").glob("masks*"))
    good = mask.read_bytes()
    mask.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    with pytest.raises(ChecksumMismatch):
        family.add("beta")
    shutil.rmtree(store)
    two = {name: small.paths[name] for name in ("alpha", "beta")}
    taskstore.pack(small.base_path, two, store, families.options())
    with pytest.raises(SwapError, match="the multi-task model of .* is no longer the one"):
        family.add("beta")
    shutil.rmtree(store)
    taskstore.pack(small.paths["gamma"], two, store, families.options())
    with pytest.raises(SwapError, match="the base of .* is no longer the one"):
        family.add("beta")
    assert family.tasks == ["alpha"]
    family.swap("alpha")
    assert holds(model, packed, "alpha")


def test_what_the_engine_prepared_is_not_written_by_an_addition(packed: Path) -> None:
    family, _ = served(packed, "alpha")
    family._untouchable.add("norm_weight")
    with pytest.raises(SwapError, match="'beta' cannot be added .* prepared weight 'norm_weight'"):
        family.add("beta")


def test_verification_finds_a_bit_that_flipped(packed: Path) -> None:
    family, model = served(packed, "alpha", "beta", live="alpha")
    assert not family.state()["verified"]
    family.verify_all()
    assert family.state()["verified"] and family.active == "alpha"
    one = family.verify("alpha")
    assert (one["task"], one["tensors"]) == ("alpha", len(family.lives))
    model.fused.data.view(torch.int16)[3] ^= 1
    with pytest.raises(
        UnknownWeights, match="1 of 5 tensors are not those of task 'beta', 'fused'"
    ):
        family.verify("beta")
    assert not family.state()["verified"] and family.active == "alpha"


def test_expected_digests_are_those_of_what_the_loader_wrote(
    packed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not of what swaps make, or they would prove nothing."""
    select = learning.select

    def forgetful(live: Any, before: Tensor, delta: Tensor, target: Tensor) -> bool:
        found = select(live, before, delta, target)
        target[:1] = 0
        return found

    monkeypatch.setattr(learning, "select", forgetful)
    family, _ = served(packed, "alpha", live="alpha")
    with pytest.raises(UnknownWeights):
        family.verify_all()
    with pytest.raises(UnknownWeights, match="tensors are not those of task 'beta'"):
        family.add("beta")
    assert family.tasks == ["alpha"] and family.active == "alpha"


def test_digests_tell_tasks_bases_and_tiers_apart(
    small: families.Family, packed: Path, tmp_path: Path
) -> None:
    manifest = taskstore.open(packed).manifest
    found = {
        shared_digests(manifest)["base"],
        *(task_digest(manifest, t, 0) for t in manifest.tasks),
    }
    assert len(found) == 4
    assert task_digest(manifest, "beta", 1) == task_digest(manifest, "beta", 0)  # it has no rest
    options = families.options(tiers="mask,rest", residual=2.0)
    taskstore.pack(small.base_path, small.paths, tmp_path / "store", options)
    rich = taskstore.open(tmp_path / "store").manifest
    assert shared_digests(rich)["base"] == shared_digests(manifest)["base"]
    assert task_digest(rich, "beta", 0) == task_digest(manifest, "beta", 0)
    assert task_digest(rich, "beta", 1) != task_digest(rich, "beta", 0)


def replaced(small: families.Family, packed: Path, store: Path) -> tuple[LiveFamily, Fused]:
    """A family that serves alpha and beta of a store in which alpha is gamma's fine-tune now."""
    shutil.copytree(packed, store)
    family, model = served(store, "alpha", "beta", live="alpha")
    kept = taskstore.AddOptions(max_error=None)
    taskstore.replace(store, {"alpha": small.paths["gamma"]}, kept)
    return family, model


@pytest.mark.parametrize("keep_new", [True, False])
def test_new_weights_wait_beside_the_old_ones(
    small: families.Family, packed: Path, tmp_path: Path, keep_new: bool
) -> None:
    family, model = replaced(small, packed, tmp_path / "store")
    before = family.state()
    family.replace("alpha")
    assert family.active == "alpha" and holds(model, tmp_path / "store", "alpha")
    assert not holds(model, packed, "alpha")
    assert family.tasks == ["beta", "alpha"] and family.state()["tasks"].keys() == {"alpha", "beta"}
    family.settle("alpha", keep_new)
    family.settle("alpha", keep_new)  # nothing is left to do
    after = family.state()
    assert (after["memory"], family.active) == (before["memory"], "alpha" if keep_new else None)
    assert (after["tasks"]["alpha"] == before["tasks"]["alpha"]) != keep_new
    for task in ("alpha", "beta", "alpha", None):
        family.swap(task)
        assert holds(model, tmp_path / "store" if keep_new else packed, task)
    assert len(family.verify_all()) == 3


def test_weights_that_cannot_be_learned_leave_the_old_ones(
    small: families.Family, packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tmp_path / "store"
    family, model = replaced(small, packed, store)
    place = taskstore.open(store).manifest.folder("alpha")
    mask = next((store / "tasks" / place).glob("masks*"))
    good = mask.read_bytes()
    mask.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    before = family.state()
    with pytest.raises(ChecksumMismatch):
        family.replace("alpha")
    mask.write_bytes(good)

    def full(*_: Any) -> None:
        raise NotEnoughMemory("the host", {"masks": 1}, 0, "serve fewer tasks")

    monkeypatch.setattr("taskstore.devices.require", full)
    with pytest.raises(NotEnoughMemory):
        family.replace("alpha")
    monkeypatch.undo()
    after = family.state()
    assert {k: after[k] for k in ("active", "tasks", "memory")} == {
        k: before[k] for k in ("active", "tasks", "memory")
    }
    assert holds(model, packed, "alpha")
    family.verify("alpha")
    family.replace("alpha")
    assert holds(model, store, "alpha")
