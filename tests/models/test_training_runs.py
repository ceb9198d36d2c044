"""Training runs: which folders are one, what becomes of their checkpoints, who takes them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from taskstore.errors import CheckpointError, InputError
from taskstore.merging import MergeOptions, merge
from taskstore.merging.methods import registry
from taskstore.merging.training_runs import METHODS, spread
from taskstore.models.training_runs import expand
from tests.support.families import Family, family, save, tuned


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def models(root: Path) -> Family:
    return family(root, 1)


def make_run(folder: Path, models: Family, *steps: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for i, step in enumerate(steps):
        save(folder / f"checkpoint-{step}", tuned(models.base, i))
    return folder


def test_checkpoints_come_by_their_steps(models: Family, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", models, 500, 1500, 1000, 90, "last", "-1", "2.5", "٣")
    (run / "checkpoint-7").write_text("a file")
    (run / "trainer_state.json").write_text("{}")
    (run / "training_args.bin").write_text("")
    found = expand(run)
    assert found is not None
    names = ["checkpoint-90", "checkpoint-500", "checkpoint-1000", "checkpoint-1500"]
    assert list(found.checkpoints) == names
    assert [path.name for path in found.checkpoints.values()] == names
    assert found.skipped == tuple(f"checkpoint-{s}" for s in ("-1", "2.5", "last", "٣"))


def test_what_is_no_run(models: Family, tmp_path: Path) -> None:
    assert expand(tmp_path / "none") is None
    assert expand(tmp_path) is None
    assert expand(models.paths["alpha"] / "model.safetensors") is None
    trained = make_run(tmp_path / "trained", models, 10)
    save(trained, models.tasks["alpha"])
    assert expand(trained) is None
    adapter = make_run(tmp_path / "adapter", models, 10)
    (adapter / "adapter_config.json").write_text("{}")
    (adapter / "adapter_model.safetensors").write_text("")
    assert expand(adapter) is None
    assert expand(make_run(tmp_path / "unnumbered", models, "final")) is None


def test_one_step_twice_is_refused(models: Family, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", models, 10, "010")
    with pytest.raises(CheckpointError, match="holds checkpoint-010 and checkpoint-10, which are "):
        expand(run)


def test_a_run_becomes_its_checkpoints(models: Family, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", models, 10, 9, "end")
    alone, notes = spread({"run": run}, "swa")
    assert alone == {"checkpoint-9": run / "checkpoint-9", "checkpoint-10": run / "checkpoint-10"}
    assert notes == {"run/checkpoint-end": "left out: its name does not end in a step"}
    beside, _ = spread({"run": run, "alpha": models.paths["alpha"]}, "average")
    assert sorted(beside) == ["alpha", "checkpoint-10", "checkpoint-9"]


def test_names_of_runs_stand_before_those_of_their_checkpoints(
    models: Family, tmp_path: Path
) -> None:
    one, two = (make_run(tmp_path / name, models, 10, 9) for name in ("one", "two"))
    found, _ = spread({"one": one, "b": two}, "warm")
    assert list(found) == ["one-checkpoint-9", "one-checkpoint-10", "b-checkpoint-9",
                           "b-checkpoint-10"]  # fmt: skip
    taken = {"checkpoint-9": models.paths["alpha"], "run": one}
    found, _ = spread(taken, "average")
    assert list(found) == ["checkpoint-9", "run-checkpoint-9", "run-checkpoint-10"]


@pytest.mark.parametrize(
    ("last", "names", "note"),
    [
        (2, ["checkpoint-100", "checkpoint-1000"], "the last 2 of 3 checkpoints are merged"),
        (3, ["checkpoint-90", "checkpoint-100", "checkpoint-1000"], None),
        (
            5,
            ["checkpoint-90", "checkpoint-100", "checkpoint-1000"],
            "has 3 checkpoints, not the last 5; all are merged",
        ),
    ],
)
def test_the_last_of_a_run(
    models: Family, tmp_path: Path, last: int, names: list[str], note: str | None
) -> None:
    run = make_run(tmp_path / "run", models, 1000, 90, 100)
    found, notes = spread({"run": run}, "lawa", last)
    assert list(found) == names
    assert notes == ({"run": note} if note else {})


def test_the_last_of_several_models_are_not_taken(models: Family, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", models, 1)
    with pytest.raises(InputError, match="a training run and 2 models are given; 'lawa' takes the"):
        spread({"run": run, "alpha": models.paths["alpha"]}, "lawa", 5)


def test_other_methods_take_no_runs(models: Family, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", models, 9, 10)
    with pytest.raises(
        InputError,
        match=r"run is a training run, which 'ties' does not merge; name one checkpoint "
        r"\(checkpoint-10\), or average them by average, lawa, swa, warm",
    ):
        merge(models.base_path, {"run": run}, tmp_path / "out", MergeOptions(method="ties"))
    assert os.listdir(tmp_path) == ["run"]


@pytest.mark.parametrize("method", METHODS)
def test_the_mean_of_a_run(models: Family, tmp_path: Path, method: str) -> None:
    if method not in registry.MERGES:
        pytest.skip(f"there is no {method}")
    run = make_run(tmp_path / "run", models, *range(10, 70, 10))
    options = MergeOptions(method=method, dtype="F32", chunk=256)
    report = merge(models.base_path, {"run": run}, tmp_path / "out", options)
    count = 5 if method == "lawa" else 6
    assert report.models == [f"checkpoint-{step}" for step in range(10, 70, 10)][-count:]
    assert ("run" in report.notes) == (method == "lawa")
    found = load_file(tmp_path / "out/model.safetensors")
    for name in models.base:
        every = torch.stack([tuned(models.base, i)[name].float() for i in range(6 - count, 6)])
        torch.testing.assert_close(found[name], every.mean(0), rtol=1e-5, atol=1e-6)
