"""add and replace on stores of every kind, without anybody's originals."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

import taskstore
from taskstore import AddOptions
from taskstore.format.names import stems_of
from taskstore.store.verify import verify
from tests.support import families
from tests.support.families import same


def made(family: families.Family, path: Path, *tasks: str, **changes: object) -> taskstore.Store:
    paths = {task: family.paths[task] for task in tasks}
    taskstore.pack(family.base_path, paths, path, families.options(**changes))
    return taskstore.open(path)


@pytest.mark.parametrize("tiers", ["rest", "exact", "rest,exact"])
@pytest.mark.parametrize("level", ["speed", "archive"])
def test_a_task_that_joins_is_what_it_is_alone(
    small: families.Family, tmp_path: Path, tiers: str, level: str
) -> None:
    """Its files are those that a pack of all gives; nothing else is read than the base."""
    level = level if "exact" in tiers else "speed"
    changes = {"tiers": tiers, "level": level, **({"parent": "none"} if "exact" in tiers else {})}
    store = made(small, tmp_path / "s", "alpha", "beta", **changes)
    for task in ("alpha", "beta"):
        shutil.move(store.path / "tasks" / task, tmp_path / task)
    report = taskstore.add(store, {"gamma": small.paths["gamma"]}, AddOptions(max_error=None))
    for task in ("alpha", "beta"):
        shutil.move(tmp_path / task, store.path / "tasks" / task)
    assert [task.tiers for task in report.summary.tasks] == [tiers.split(",")] * 3
    now, whole = taskstore.open(store.path), made(small, tmp_path / "w", *small.paths, **changes)
    for stem in stems_of("gamma"):
        theirs = whole.path / f"{stem}.safetensors"
        ours = now.path / f"{stem.replace('gamma', now.manifest.folder('gamma'))}.safetensors"
        assert ours.is_file() == theirs.is_file()
        assert not ours.is_file() or ours.read_bytes() == theirs.read_bytes()
    assert now.manifest.tasks["gamma"].tensors == whole.manifest.tasks["gamma"].tensors
    assert verify(now, deep=True).ok


def test_a_mask_over_the_model_that_is_there(small: families.Family, tmp_path: Path) -> None:
    store = made(small, tmp_path / "s", "alpha", "beta", "gamma", tiers="mask")
    masks = {n: t.clone() for n, t in store.state_dict("gamma").items()}
    left = taskstore.remove(store, ["gamma"])
    taskstore.add(left, {"gamma": small.paths["gamma"]}, AddOptions(max_error=None))
    now = taskstore.open(store.path)
    assert now.tiers("gamma") == ["mask"]
    assert now.fidelity("gamma").error is not None
    found = now.state_dict("gamma")
    wrong = sum(int((found[name] != value).sum()) for name, value in masks.items())
    # tau_MTL before it was rounded is gone, so some bits near the threshold differ, and no more
    assert wrong <= 0.02 * sum(value.numel() for value in masks.values())
    assert verify(now, deep=True).ok


def test_what_a_mask_would_lose_gets_a_rest(small: families.Family, tmp_path: Path) -> None:
    store = made(small, tmp_path / "s", "alpha", "beta", tiers="mask")
    report = taskstore.add(store, {"gamma": small.paths["gamma"]}, AddOptions(max_error=0.04))
    assert "gamma: a mask over the multi-task model" in report.warnings[0]
    now = taskstore.open(store.path)
    assert [now.tiers(task) for task in now.tasks] == [["mask"], ["mask"], ["rest"]]
    assert 0.036 < (now.fidelity("gamma").error or 0) <= 0.04
    assert verify(now, deep=True).ok
    assert now.summary().tasks[2].rest_bytes > 0


@pytest.fixture
def mixed(tmp_path: Path) -> families.Family:
    """A family of which rests hold two tasks, and two others are kept exact."""
    base = families.random_state(0)
    light = {name: families.tuned(base, k) for k, name in enumerate(("one", "two"))}
    far = {name: families.random_state(5 + k) for k, name in enumerate(("far", "lost"))}
    far = {name: {n: v / 40 for n, v in state.items()} for name, state in far.items()}
    return families.Family(tmp_path / "mixed", base, light | far)


def test_what_joins_gets_what_it_needs(mixed: families.Family, tmp_path: Path) -> None:
    """The tier and bits that it would have if it were packed with the others."""
    whole = made(mixed, tmp_path / "whole", *mixed.paths, tiers="auto")
    store = made(mixed, tmp_path / "s", "two", tiers="auto")
    new = {name: mixed.paths[name] for name in ("far", "lost", "one")}
    report = taskstore.add(store, new)
    assert "far: kept exact, for no rest of 8 bits is near enough" in report.warnings
    now = taskstore.open(store.path)
    for name in mixed.paths:
        assert now.manifest.tasks[name].bits == whole.manifest.tasks[name].bits
        assert now.manifest.tasks[name].tensors == whole.manifest.tasks[name].tensors
    now = taskstore.remove(now, ["far"])
    taskstore.add(now, {"three": mixed.paths["one"]}, AddOptions(max_error=0.055))
    found = taskstore.open(store.path)
    assert (found.fidelity("three").grade, found.fidelity("one").grade) == ("B", "A")
    assert verify(found, deep=True).ok


def test_each_task_that_is_replaced_keeps_its_tiers(mixed: families.Family, tmp_path: Path) -> None:
    store = made(mixed, tmp_path / "s", "one", "lost", "two", tiers="auto")
    new = {"lost": mixed.paths["one"], "one": mixed.paths["two"]}
    taskstore.replace(store, new)
    now = taskstore.open(store.path)
    assert {task: now.tiers(task) for task in now.tasks} == {
        "lost": ["exact"],
        "one": ["rest"],
        "two": ["rest"],
    }
    assert all(same(now.state_dict("lost")[n], v) for n, v in mixed.tasks["one"].items())
    assert now.fidelity("one").grade == "A"
    assert verify(now, deep=True).ok


def test_many_that_join_get_no_masks_of_their_own(tmp_path: Path) -> None:
    """Packed together they would have; but a store has one multi-task model, or none."""
    generator = torch.Generator().manual_seed(7)

    def drawn(scale: float) -> families.State:
        return {"w": (scale * torch.randn(96, 128, generator=generator)).bfloat16()}

    base, common = drawn(0.02), drawn(0.001)
    states = {f"t{t:02}": {"w": base["w"] + common["w"] + drawn(1e-4)["w"]} for t in range(21)}
    family = families.Family(tmp_path / "f", base, states)
    made(family, tmp_path / "s", "t00", tiers="auto")
    taskstore.add(tmp_path / "s", {name: family.paths[name] for name in states if name != "t00"})
    now = taskstore.open(tmp_path / "s")
    assert all(now.tiers(task) == ["rest"] for task in states)
    assert made(family, tmp_path / "whole", *states, tiers="auto").tiers("t00") == ["mask"]


@pytest.mark.parametrize("tiers", ["mask", "exact", "mask,exact"])
def test_every_kind_of_tensor(tiers: str, tmp_path: Path) -> None:
    """Tied, grown, private, empty and integer tensors, by what the store's other tasks are."""
    base, tasks = families.rich_states()
    family = families.Family(tmp_path / "family", base, tasks)
    for task in tasks:
        others = [other for other in tasks if other != task]
        store = made(family, tmp_path / f"s-{task}", *others, tiers=tiers, keep_private=True)
        how = AddOptions(max_error=None, keep_private=True)
        taskstore.add(store, {task: family.paths[task]}, how)
        now = taskstore.open(store.path)
        assert verify(now, deep=True).ok
        found = now.state_dict(task)
        assert found.keys() == tasks[task].keys()
        if "exact" in tiers:
            assert all(same(found[name], value) for name, value in tasks[task].items())


def test_weights_that_are_tied_in_the_store_alone(tmp_path: Path) -> None:
    shapes = {"a.weight": (8, 16), "b.weight": (8, 16), "c.weight": (40, 8)}
    base = families.random_state(0, shapes=shapes)
    base["b.weight"] = base["a.weight"].clone()
    tied = families.tuned(base, 1)
    tied["b.weight"] = tied["a.weight"].clone()
    family = families.Family(tmp_path / "f", base, {"tied": tied, "free": families.tuned(base, 2)})
    for tiers in ("exact", "mask"):
        store = made(family, tmp_path / tiers, "tied", tiers=tiers)
        assert store.manifest.tensors["b.weight"].alias == "a.weight"
        taskstore.add(store, {"free": family.paths["free"]}, AddOptions(max_error=None))
        now = taskstore.open(store.path)
        assert now.manifest.tasks["free"].tensors["b.weight"].kind == "private"
        assert same(now.state_dict("free")["b.weight"], family.tasks["free"]["b.weight"])
        assert verify(now, deep=True).ok


def test_new_weights_for_a_task(small: families.Family, tmp_path: Path) -> None:
    store = made(small, tmp_path / "s", "alpha", "beta", tiers="rest", residual=3.0)
    as_it_is = AddOptions(max_error=None)
    taskstore.replace(store, {"beta": small.paths["gamma"]}, as_it_is)
    now = taskstore.open(store.path)
    assert (now.tasks, now.tiers("beta")) == (["alpha", "beta"], ["rest"])
    assert now.manifest.tasks["beta"].bits == 3.0
    assert now.manifest.tasks["beta"].origin == "gamma"
    vectors = now.manifest.vectors
    assert vectors is not None
    assert vectors.cosines == [[], [None]]
    again = taskstore.replace(now, {"beta": small.paths["gamma"]}, as_it_is)  # nothing is written
    assert taskstore.open(store.path).manifest.files == now.manifest.files
    assert again.summary.tasks[1].rest_bytes == now.summary().tasks[1].rest_bytes
    assert verify(taskstore.open(store.path), deep=True).ok


def test_several_at_once_and_a_base_elsewhere(small: families.Family, tmp_path: Path) -> None:
    store = made(small, tmp_path / "s", "beta", tiers="exact", base="reference")
    new = {name: small.paths[name] for name in ("alpha", "gamma")}
    taskstore.add(store, new)
    now = taskstore.open(store.path)
    for task, state in small.tasks.items():
        found = now.state_dict(task)
        assert all(torch.equal(found[name], value) for name, value in state.items())
    assert now.manifest.vectors is not None
    assert now.manifest.vectors.norms.keys() == small.tasks.keys()
    known = now.manifest.vectors.pairs()
    assert known[frozenset(("alpha", "gamma"))] is not None
    assert known[frozenset(("alpha", "beta"))] is None
