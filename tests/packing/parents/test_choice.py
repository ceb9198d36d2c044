"""Which parents `auto` finds: a run is a chain, strangers are coded against the base."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest
import torch

import taskstore
from taskstore.errors import InputError, OptionError
from taskstore.packing.options import PackOptions
from tests.support import families
from tests.support.families import State, options

SHAPES = {"layers.0.attn.weight": (300, 64), "layers.1.attn.weight": (150, 64)}


def run(steps: Iterable[float], dtype: torch.dtype = torch.bfloat16) -> dict[str, State]:
    """Return the base and what follows it, each by a step from the one before."""
    state = families.random_state(0, dtype, SHAPES)
    found = {"base": state}
    for i, step in enumerate(steps):
        found[f"c{i}"] = state = families.tuned(state, i, step)
    return found


def parents(root: Path, states: dict[str, State], **changes: object) -> dict[str, str | None]:
    base, *tasks = states
    made = families.Family(root, states[base], {name: states[name] for name in tasks})
    store = root / "store"
    how = {"tiers": "exact", "chunk": 1 << 14, "overwrite": True, **changes}
    taskstore.pack(made.base_path, made.paths, store, options(**how))
    return {task.name: task.parent for task in taskstore.open(store).summary().tasks}


CHAIN = {"c0": None, "c1": "c0", "c2": "c1"}
STEPS = (0.01, 0.0004, 0.0004)


@pytest.mark.parametrize("tiers", ["exact", "rest,exact"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_run_is_a_chain(tiers: str, dtype: torch.dtype, tmp_path: Path) -> None:
    assert parents(tmp_path, run(STEPS, dtype), tiers=tiers) == CHAIN


def test_a_folder_of_a_run_stands_for_its_checkpoints(tmp_path: Path) -> None:
    base, *tasks = run(STEPS).values()
    root = families.save(tmp_path / "base", base)
    for i, state in enumerate(tasks, 9):
        families.save(tmp_path / "run" / f"checkpoint-{i}", state)
    (tmp_path / "run" / "checkpoint-best").mkdir()
    how = options(tiers="exact", chunk=1 << 14)
    report = taskstore.pack(root, {"run": tmp_path / "run"}, tmp_path / "store", how)
    found = {task.name: task.parent for task in report.summary.tasks}
    assert found["checkpoint-11"] == "checkpoint-10"
    assert [*found] == ["checkpoint-10", "checkpoint-11", "checkpoint-9"]
    assert any("run/checkpoint-best: left out" in line for line in report.warnings)
    with pytest.raises(InputError, match="name one checkpoint: .*checkpoint-"):
        taskstore.pack(root, {"run": tmp_path / "run"}, tmp_path / "small")


def test_strangers_are_coded_against_the_base(tmp_path: Path) -> None:
    base = families.random_state(0, shapes=SHAPES)
    tasks = {f"c{i}": families.tuned(base, i) for i in range(3)}
    assert set(parents(tmp_path, {"base": base, **tasks}).values()) == {None}


def test_a_sample_of_the_weights_is_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("taskstore.packing.parents.distances.LARGEST", 1 << 12)
    assert parents(tmp_path, run(STEPS)) == CHAIN


def test_none_and_depth(tmp_path: Path) -> None:
    assert set(parents(tmp_path / "a", run(STEPS), parent="none").values()) == {None}
    found = parents(tmp_path / "b", run(STEPS), depth=2)
    assert (found["c0"], found["c2"]) == (None, "c0") or found["c1"] is None


def test_some_are_given_and_the_others_found(tmp_path: Path) -> None:
    found = parents(tmp_path, run(STEPS), parents={"c1": "c2"})
    assert found["c1"] == "c2"
    assert [*found.values()].count(None) == 1


def test_masks_have_no_parents_of_themselves(tmp_path: Path) -> None:
    assert set(parents(tmp_path, run(STEPS), tiers="mask,exact").values()) == {None}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"parents": {"a": "b", "b": "a"}}, "the parents of 'a' come back to 'a'"),
        ({"parents": {"a": "x"}}, "'x' is no task of this family"),
        ({"parents": {"x": "a"}}, "'x' is no task of this family"),
        ({"parents": {"b": "a", "c": "b"}, "depth": 2}, "'c' would be 3 deep, below b, a"),
        ({"parents": {"b": "b"}}, "come back to 'b'"),
    ],
)
def test_parents_that_make_no_sense(changes: dict[str, object], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        options(tiers="exact", **changes).check_tasks(["a", "b", "c"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tiers": "exact", "depth": 0}, "depth 0 is not a number from 1 to 64"),
        ({"tiers": "exact", "depth": 65}, "depth 65"),
        ({"tiers": "rest", "parents": {"a": "b"}}, "parent does nothing with tiers rest"),
        ({"tiers": "mask", "depth": 3}, "depth does nothing with tiers mask"),
    ],
)
def test_options_that_make_no_sense(changes: dict[str, object], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        PackOptions(**changes)  # type: ignore[arg-type]
