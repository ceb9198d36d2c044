"""A lambda per task by the user's own measure; an interrupted search goes on."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from safetensors.torch import load_file

import taskstore
from taskstore.errors import InputError, TargetExists
from taskstore.evaluation.bench import Bench
from taskstore.evaluation.journal import Journal
from taskstore.packing.search_lambda import tune
from tests.support import families
from tests.support.evaluators import run, script


def test_each_task_takes_its_best_lambda(small: families.Family, tmp_path: Path) -> None:
    wanted = {"alpha": 0.3, "beta": 0.9, "gamma": 0.3}

    def score(model: Path, task: str) -> float:
        density = density_of(model, small, task)
        return round(-abs(density - densities[task][wanted[task]]), 6)

    densities = {task: dict[float, float]() for task in wanted}
    for lam in (0.1, 0.3, 0.9):
        taskstore.pack(small.base_path, small.paths, tmp_path / f"{lam}", families.options(lam=lam))
        for task in wanted:
            folder = taskstore.open(tmp_path / f"{lam}").unpack(task, tmp_path / f"{lam}{task}")
            densities[task][lam] = density_of(folder, small, task)
    bench = Bench(score, Journal(None))
    found = tune(
        small.base_path,
        small.paths,
        tmp_path / "store",
        bench,
        grid=[0.9, 0.1, 0.3, 0.3],
        options=families.options(),
    )
    assert found.lambdas == wanted
    tasks = taskstore.open(tmp_path / "store").manifest.tasks
    assert {name: task.lam for name, task in tasks.items()} == wanted
    assert list(found.scores["alpha"]) == [0.1, 0.3, 0.9]
    assert found.to_dict()["tasks"]["beta"]["scores"]["0.9"] == 0


def density_of(model: Path, small: families.Family, task: str) -> float:
    """Share of weights that are not the base's."""
    state = load_file(model / "model.safetensors")
    moved = [(state[name] != value).float().mean() for name, value in small.base.items()]
    return float(sum(moved)) / len(moved)


def test_equal_scores_take_the_smallest(small: families.Family, tmp_path: Path) -> None:
    bench = Bench(lambda *_: 1.0, Journal(None))
    found = tune(
        small.base_path,
        small.paths,
        tmp_path / "s",
        bench,
        grid=[0.5, 0.2],
        options=families.options(),
    )
    assert set(found.lambdas.values()) == {0.2}


def test_tuning_that_cannot_be(small: families.Family, tmp_path: Path) -> None:
    bench = Bench(lambda *_: 1.0, Journal(None))
    for grid, message in (([], "grid of lambdas is empty"), ([0.2, -1], "lambda -1")):
        with pytest.raises(InputError, match=message):
            tune(small.base_path, small.paths, tmp_path / "s", bench, grid=grid)
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "file").touch()
    with pytest.raises(TargetExists):
        tune(small.base_path, small.paths, tmp_path / "there", bench)
    assert sorted(os.listdir(tmp_path)) == ["there"]


def test_an_interrupted_tune_goes_on(small: families.Family, tmp_path: Path) -> None:
    """The first run fails at its fifth evaluation; the second does the last two alone."""
    text = """
with open(os.path.join(os.path.dirname(sys.argv[0]), "calls"), "a+") as file:
    file.write(task + "\\n")
    file.seek(0)
    if len(file.readlines()) == 5:
        sys.exit("interrupted")
print(1)
"""
    command = script(tmp_path, text)
    models = [f"{name}={path}" for name, path in small.paths.items()]
    words = (
        "tune",
        small.base_path,
        *models,
        "-o",
        tmp_path / "s",
        "--eval",
        command,
        "--lambda",
        "0.2,0.4",
    )
    code, _, err = run(*words)
    assert code == 1
    assert "the evaluation of task 'beta' ended with status 1; it wrote: interrupted" in err
    assert (tmp_path / "s.tune.jsonl").exists()
    assert not (tmp_path / "s").exists()
    assert run(*words)[0] == 0
    assert (tmp_path / "calls").read_text().split() == [
        "alpha", "beta", "gamma", "alpha", "beta", "beta", "gamma"
    ]  # fmt: skip
    assert not (tmp_path / "s.tune.jsonl").exists()
