"""A fine-tune that joins a store is coded against the nearest of its tasks, or the base."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import taskstore
from taskstore import AddOptions
from taskstore.store.verify import verify
from tests.support import families
from tests.support.families import State, options, same

SHAPES = {"w": (200, 400), "bias": (300,)}


def stepped(state: State, seed: int, size: float) -> State:
    draw = torch.Generator().manual_seed(seed)
    return {
        name: (w.float() + size * torch.randn(w.shape, generator=draw)).to(w.dtype)
        for name, w in state.items()
    }


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> families.Family:
    """Two runs, a and b, of checkpoints that are near to each other."""
    base = families.random_state(0, torch.bfloat16, shapes=SHAPES)
    tasks = {"a1": stepped(base, 1, 0.01), "b1": stepped(base, 2, 0.01)}
    for run in "ab":
        for step in range(2, 5):
            before = tasks[f"{run}{step - 1}"]
            tasks[f"{run}{step}"] = stepped(before, 10 * step + ord(run), 1e-4)
    tasks["other"] = stepped(base, 99, 0.01)
    return families.Family(tmp_path_factory.mktemp("nearest"), base, tasks)


def packed(family: families.Family, path: Path, *tasks: str, **more: object) -> taskstore.Store:
    paths = {task: family.paths[task] for task in tasks}
    how = options(**{"tiers": "exact", "chunk": 1 << 13, **more})
    taskstore.pack(family.base_path, paths, path, how)
    return taskstore.open(path)


def parents(
    store: taskstore.Store, family: families.Family, *tasks: str, **how: object
) -> dict[str, str | None]:
    """Add tasks; return their parents. All come back bit for bit."""
    taskstore.add(store, {name: family.paths[name] for name in tasks}, AddOptions(**how))  # type: ignore[arg-type]
    now = taskstore.open(store.path)
    assert verify(now, deep=True).ok
    for name in tasks:
        found = now.state_dict(name)
        assert all(same(found[key], value) for key, value in family.tasks[name].items())
    return {name: now.manifest.tasks[name].parent for name in tasks}


def test_it_is_the_task_of_the_same_run(family: families.Family, tmp_path: Path) -> None:
    store = packed(family, tmp_path / "s", "a1", "b1", "a2")
    assert parents(store, family, "b2") == {"b2": "b1"}
    assert parents(taskstore.open(store.path), family, "a3", "other") == {
        "a3": "a2",
        "other": None,
    }


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ({"parent": "none"}, {"a2": None, "b2": None}),
        ({"parents": {"b2": "a1"}}, {"a2": "a1", "b2": "a1"}),
        ({"parents": {"a2": "b1", "b2": "a2"}}, {"a2": "b1", "b2": "a2"}),
    ],
)
def test_what_is_asked_for_stays(
    family: families.Family,
    tmp_path: Path,
    how: dict[str, object],
    expected: dict[str, str | None],
) -> None:
    store = packed(family, tmp_path / "s", "a1", "b1", parent="none")
    assert parents(store, family, "a2", "b2", **how) == expected


def test_it_is_found_among_64(tmp_path: Path) -> None:
    """The newest of a run is found among strangers, where the most tasks are looked at least."""
    base = families.random_state(5, torch.bfloat16, shapes={"still": (9000,), "w": (96, 256)})
    tasks = {f"task{i:02d}": _only_w(base, 100 + i, 0.01) for i in range(61)}
    run = [_only_w(base, 1, 0.01)]
    for step in range(2, 5):
        run.append(_only_w(run[-1], step, 3e-4))
    tasks |= {f"task{60 + step}": state for step, state in enumerate(run, 1)}
    family = families.Family(tmp_path / "family", base, tasks)
    *before, _ = tasks
    store = packed(family, tmp_path / "s", *before, parent="none")
    assert parents(store, family, "task64") == {"task64": "task63"}


def _only_w(state: State, seed: int, size: float) -> State:
    return {**state, "w": stepped(state, seed, size)["w"]}


def test_no_chain_is_too_deep(family: families.Family, tmp_path: Path) -> None:
    """Tasks at the deepest place are no parents; several that join count with what is there."""
    chain = {"a2": "a1", "a3": "a2", "b1": "a3", "b2": "b1", "b3": "b2", "other": "b3"}
    store = packed(family, tmp_path / "s", "a1", *chain, parents=chain, parent="none")
    found = parents(store, family, "a4", "b4")
    assert found == {"a4": "a3", "b4": "b3"}
    again = taskstore.open(store.path)
    assert max(1 + len(list(above(again, name))) for name in again.tasks) <= 8


def above(store: taskstore.Store, task: str) -> list[str]:
    parent = store.manifest.tasks[task].parent
    return [] if parent is None else [parent, *above(store, parent)]


def test_a_task_is_not_below_itself(family: families.Family, tmp_path: Path) -> None:
    """What is replaced, and what was coded against it, is no parent of its new weights."""
    store = packed(family, tmp_path / "s", "a1", "a2", parents={"a2": "a1"}, parent="none")
    taskstore.replace(store, {"a1": family.paths["a3"]})
    now = taskstore.open(store.path)
    assert verify(now, deep=True).ok
    assert [now.manifest.tasks[name].parent for name in ("a1", "a2")] == [None, None]


def test_a_damaged_task_is_no_parent(family: families.Family, tmp_path: Path) -> None:
    store = packed(family, tmp_path / "s", "a1", "b1", parent="none")
    (store.path / "tasks" / "a1" / "exact.safetensors").unlink()
    taskstore.add(store, {"a2": family.paths["a2"]})
    now = taskstore.open(store.path)
    assert now.manifest.tasks["a2"].parent is None
    found = now.state_dict("a2")
    assert all(same(found[key], value) for key, value in family.tasks["a2"].items())


def test_other_tiers_are_no_parents(family: families.Family, tmp_path: Path) -> None:
    store = packed(family, tmp_path / "s", "a1", "b1", tiers="rest")
    assert parents(store, family, "a2", tiers="exact") == {"a2": None}
