"""Tiers `auto`: each task is as near as was asked for, with the fewest bits, whatever happens."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

import taskstore
from taskstore import PackOptions
from taskstore.packing.auto import choose
from taskstore.store.verify import verify
from tests.support import ROOT, families
from tests.support.evaluators import run
from tests.support.families import Family, State, contents, options, same

EXAMPLE = ROOT / "examples" / "family"
TASKS = ("english", "german", "roman", "spanish")


def error(store: Path, task: str, state: State, base: State) -> float:
    """The error of a rebuilt task in float64, by the formula of docs/fidelity.md."""
    rebuilt = taskstore.open(store).state_dict(task)
    w, w0, back = (
        torch.cat([x[n].double().flatten() for n in base]) for x in (state, base, rebuilt)
    )
    projection = float((w - w0) @ (back - w0) / ((w - w0) @ (w - w0)))
    return float((back - w).norm() / w.norm()) + 0.2 * abs(1 - projection)


@pytest.mark.parametrize(("tiers", "most"), [("auto", 0.03), ("auto:B", 0.055)])
def test_the_error_is_kept_with_the_fewest_bits(
    tiers: str, most: float, small: Family, tmp_path: Path
) -> None:
    taskstore.pack(small.base_path, small.paths, tmp_path / "s", options(tiers=tiers))
    store = taskstore.open(tmp_path / "s")
    bits = {name: task.bits or 0 for name, task in store.manifest.tasks.items()}
    coarser = options(tiers="rest", residuals={t: max(0.1, b - 0.125) for t, b in bits.items()})
    taskstore.pack(small.base_path, small.paths, tmp_path / "less", coarser)
    for task, state in small.tasks.items():
        found = error(tmp_path / "s", task, state, small.base)
        assert found == pytest.approx(store.fidelity(task).error, rel=1e-4)
        assert found <= most < error(tmp_path / "less", task, state, small.base)


def test_the_default_keeps_the_example_at_grade_a(tmp_path: Path) -> None:
    where = EXAMPLE / "base", {task: EXAMPLE / task for task in TASKS}
    report = taskstore.pack(*where, tmp_path / "a", PackOptions())
    assert {(task.fidelity.grade, *task.tiers) for task in report.summary.tasks} == {("A", "rest")}
    assert 0.8 < report.summary.bits_per_parameter_and_task < 1.05
    less = taskstore.pack(*where, tmp_path / "b", PackOptions(tiers="auto:B")).summary
    more = taskstore.pack(*where, tmp_path / "c", PackOptions(tiers="auto:0.02")).summary
    for tiers, other in (("auto:B", less), ("auto:0.02", more)):
        share = other.rest_bytes / report.summary.rest_bytes
        assert report.others[tiers] == pytest.approx(share, rel=0.15)
        said = re.search(rf"{tiers}[^;]*? \(about ([\d.]+) bits/parameter\)", report.advice)
        assert said is not None
        bits = sum(task.bits_per_parameter for task in other.tasks) / 4
        assert float(said[1]) == pytest.approx(bits, rel=0.2)
    assert {task.fidelity.grade for task in less.tasks} == {"B"}
    assert less.rest_bytes < 0.85 * report.summary.rest_bytes


def rich(root: Path) -> Family:
    """Tied, grown, private, empty and integer tensors."""
    return Family(root, *families.rich_states())


@pytest.mark.parametrize("above", [{}, {"parents": {"two": "one"}}], ids=["alone", "exact"])
def test_what_a_sample_got_wrong_is_packed_once_more(
    above: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every byte is that of a pack with the bits of the second try."""
    family = rich(tmp_path)
    monkeypatch.setattr(choose, "MARGIN", 1.5)
    chosen: dict[str, Any] = {"keep_private": True, **above}
    exact = ",exact" if above else ""
    first = options(tiers="auto" + exact, **chosen)
    taskstore.pack(family.base_path, family.paths, tmp_path / "s", first)
    store = taskstore.open(tmp_path / "s")
    assert all((store.fidelity(task, "rest").error or 1) <= 0.03 for task in store.tasks)
    assert verify(store, deep=True).ok
    bits = {name: task.bits for name, task in store.manifest.tasks.items()}
    again = options(tiers="rest" + exact, residuals=bits, **chosen)
    taskstore.pack(family.base_path, family.paths, tmp_path / "t", again)
    assert contents(tmp_path / "s") == contents(tmp_path / "t")


def test_what_no_rest_holds_is_exact(tmp_path: Path) -> None:
    """A task whose vector is twenty times its weights, beside tasks that are light."""
    base = families.random_state(0)
    tasks = {"light": families.tuned(base, 1), "lost": families.random_state(5)}
    tasks["lost"] = {name: value / 40 for name, value in tasks["lost"].items()}
    family = Family(tmp_path, base, tasks)
    report = taskstore.pack(family.base_path, family.paths, tmp_path / "s", options(tiers="auto"))
    store = taskstore.open(tmp_path / "s")
    assert (store.tiers("light"), store.tiers("lost")) == (["rest"], ["exact"])
    assert (store.fidelity("light").grade, store.fidelity("lost").kind) == ("A", "exact")
    assert report.notes == ["lost: kept exact, for no rest of 8 bits is near enough"]
    assert verify(store, deep=True).ok
    rebuilt = store.state_dict("lost")
    assert all(same(rebuilt[name], value) for name, value in tasks["lost"].items())
    every = options(tiers="auto:1e-9")
    taskstore.pack(family.base_path, family.paths, tmp_path / "e", every)
    assert taskstore.open(tmp_path / "e").manifest.tasks["light"].all_tiers == ("exact",)


def test_a_rest_that_failed_twice_is_given_up(
    small: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choose, "MARGIN", 4.0)
    monkeypatch.setattr("taskstore.packing.driver.finer", lambda bits, *_: bits)
    taskstore.pack(small.base_path, small.paths, tmp_path / "s", options(tiers="auto"))
    store = taskstore.open(tmp_path / "s")
    assert {store.fidelity(task).kind for task in store.tasks} == {"exact"}
    assert verify(store, deep=True).ok


def test_bits_that_are_given_stay(small: Family, tmp_path: Path) -> None:
    chosen = options(tiers="auto,exact", residuals={"beta": 0.5})
    taskstore.pack(small.base_path, small.paths, tmp_path / "s", chosen)
    store = taskstore.open(tmp_path / "s")
    assert store.manifest.tasks["beta"].bits == 0.5
    assert [store.fidelity(task, "rest").grade for task in store.tasks] == ["A", "C", "A"]
    assert all(store.tiers(task) == ["rest", "exact"] for task in store.tasks)


def test_the_commands(small: Family, tmp_path: Path) -> None:
    words = [small.base_path, *(f"{n}={p}" for n, p in small.paths.items()), "-o", tmp_path / "s"]
    for given in ([], ["--tiers", "auto:B"], ["--max-error", "B"]):
        code, out, err = run("pack", *words, *given, "--json", "--overwrite")
        assert code == 0, err
        grades = {task["fidelity"]["grade"] for task in json.loads(out)["tasks"]}
        assert grades == {"B" if given else "A"}
    code, out, err = run("pack", *words, "--method", "lsq", "--overwrite")
    assert (code, "tiers mask, which --method is for" in out) == (0, True), err
    assert taskstore.open(tmp_path / "s").tiers("alpha") == ["mask"]
