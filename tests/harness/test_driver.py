"""`taskstore.evaluate`: by a function of folders or a callback; recorded, journalled."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

import taskstore
from taskstore.errors import BadName, InputError, UnknownTask
from taskstore.evaluation.command import Measured


def test_scores_are_recorded_with_their_number_of_examples(packed: Path, tmp_path: Path) -> None:
    store = Path(shutil.copytree(packed, tmp_path / "store"))
    found = taskstore.evaluate(
        store, lambda folder, task: Measured.over(len(task) / 10, 25), record="val"
    )
    assert [score.rebuilt for score in found.scores] == [0.5, 0.4, 0.5]
    summed = taskstore.open(store).summary()
    assert {t.name: t.scores["val"]["n"] for t in summed.tasks} == dict.fromkeys(store_tasks(), 25)
    assert "val 0.5 (n 25)" in taskstore.open(store)._repr_html_()


def store_tasks() -> list[str]:
    return ["alpha", "beta", "gamma"]


def test_what_a_journal_has_is_not_scored_again(packed: Path, tmp_path: Path) -> None:
    calls: list[str] = []

    def counted(folder: Path, task: str) -> float:
        calls.append(task)
        return 1.0

    for _ in range(2):
        taskstore.evaluate(packed, counted, journal=tmp_path / "scores.jsonl")
    assert calls == store_tasks()


def test_a_bar_counts_models(packed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    taskstore.evaluate(packed, lambda *_: 1.0, progress=True)
    assert "3/3" in capsys.readouterr().err


def test_what_makes_no_sense_is_refused_before_anything_is_scored(packed: Path) -> None:
    def never(*_: Any) -> float:
        raise AssertionError

    with pytest.raises(InputError, match="give either an evaluator"):
        taskstore.evaluate(packed)
    with pytest.raises(InputError, match="give either an evaluator"):
        taskstore.evaluate(packed, never, callback=never)
    with pytest.raises(InputError, match="device is of live models"):
        taskstore.evaluate(packed, never, device="cpu")
    with pytest.raises(UnknownTask, match="did you mean 'alpha'"):
        taskstore.evaluate(packed, callback=never, tasks=["alpa"])
    with pytest.raises(BadName, match="name of the evaluation"):
        taskstore.evaluate(packed, never, record=" ")
    with pytest.raises(InputError, match="evaluator is 3 "):
        taskstore.evaluate(packed, 3)  # type: ignore[arg-type]
