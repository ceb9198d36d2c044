"""`taskstore merge --eval`: a search as a user runs it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from taskstore_cli.arguments.search import Asked, asked

from taskstore.merging.search.grids import Grids
from taskstore.merging.search.origins import Folders
from tests.support import families
from tests.support.evaluators import run, script
from tests.support.families import Family


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Family:
    """Float32, so that an evaluator without any library can read it."""
    return families.family(tmp_path_factory.mktemp("wide"), 3, torch.float32)


CLOSE_TO_BETA = """
calls = open(os.path.join(os.path.dirname(sys.argv[0]), "calls"), "a+")
calls.write(task + "\\n")
calls.seek(0)
if len(calls.readlines()) == 5:
    os.kill(os.getppid(), 2)
    time.sleep(60)
import array, struct
raw = open(os.path.join(model, "model.safetensors"), "rb").read()
head = 8 + struct.unpack("<Q", raw[:8])[0]
start, stop = json.loads(raw[8:head])["norm.weight"]["data_offsets"]
weights = array.array("f", raw[head + start : head + stop])
wanted = WANTED
print(json.dumps({"score": 1, "loss": sum((a - b) ** 2 for a, b in zip(weights, wanted))}))
"""


def test_the_command(wide: Family, tmp_path: Path) -> None:
    """The first run is interrupted in its fifth evaluation; the second does what is left alone."""
    base, tau = wide.base["norm.weight"], torch.zeros(16)
    for task in wide.tasks.values():
        tau += task["norm.weight"] - base
    program = CLOSE_TO_BETA.replace("WANTED", str((base + 0.5 * tau).tolist()))
    out, plot = tmp_path / "out", tmp_path / "plot.html"
    words = ("merge", wide.base_path, *wide.paths.values(), "-o", out, "--method", "sum",
             "--eval", script(tmp_path, program), "--key", "loss", "--minimise",
             "--alpha", "0.25:0.75:0.25", "--plot", plot)  # fmt: skip
    code, _, err = run(*words)
    assert code == 130
    assert "Traceback" not in err
    assert not out.exists()
    assert len((tmp_path / "out.merge.jsonl").read_text().splitlines()) == 4
    code, shown, err = run(*words)
    assert code == 0, err
    assert (tmp_path / "calls").read_text().split() == [
        "alpha", "beta", "gamma", "alpha", "beta", "beta", "gamma", "alpha", "beta", "gamma"
    ]  # fmt: skip
    title, *lines = [line.split() for line in shown.splitlines()]
    assert title == ["points", "that", "were", "scored"]
    assert lines[0] == ["alpha", "alpha", "beta", "gamma", "mean", "loss"]
    assert [line[0] for line in lines[1:4]] == ["0.25", "0.5", "0.75"]
    assert [line[-1] == "chosen" for line in lines[1:4]] == [False, True, False]
    assert "merged by sum, alpha 0.5" in shown
    assert "alpha 0.25: " in err
    assert not (tmp_path / "out.merge.jsonl").exists()
    assert plot.stat().st_size > 1_000_000


def test_one_model_is_scored_without_a_grid(wide: Family, tmp_path: Path) -> None:
    models = list(wide.paths.values())
    command = script(tmp_path, "print(7)").replace("{task}", "any")
    words = ("merge", wide.base_path, *models, "--method", "sum", "--alpha", 0.3, "-o")
    code, shown, err = run(*words, tmp_path / "out", "--eval", command)
    assert (code, err) == (0, "merged: 7\n")
    assert [line.split() for line in shown.splitlines()[1:3]] == [["score"], ["7"]]
    journal = tmp_path / "scores"
    code, shown, err = run(
        *words, tmp_path / "json", "--eval", command, "--json", "--journal", journal
    )
    assert (code, err) == (0, "")
    found = json.loads(shown)
    assert found["alpha"] == 0.3
    assert found["search"] == {
        "evaluator": command,
        "minimise": False,
        "points": [{"values": {}, "score": 7, "scores": {}, "chosen": True}],
    }
    assert len(journal.read_text().splitlines()) == 1


def test_what_a_recipe_makes_is_scored(small: Family, tmp_path: Path) -> None:
    recipe = tmp_path / "merge.yaml"
    models = "".join(f"  - {{model: {path}, parameters: {{weight: 0.5}}}}\n"
                     for path in small.paths.values())  # fmt: skip
    text = f"merge_method: task_arithmetic\nbase_model: {small.base_path}\nmodels:\n{models}"
    recipe.write_text(text)
    command = script(tmp_path, "print(len(task))")
    code, _, err = run("merge", "--config", recipe, "--eval", command, "-o", tmp_path / "out")
    assert code == 0, err
    assert "merged: 4.66667 (alpha 5, beta 4, gamma 5)" in err
    card = (tmp_path / "out" / "README.md").read_text()
    assert "| **5** | **4** | **5** | **4.667** |" in card


def test_numbers_and_grids_are_told_apart() -> None:
    found = asked("consensus", "auto", ("k=auto", "lam=0.3"), 3)
    tenths = tuple(i / 10 for i in range(1, 11))
    assert found == Asked(None, {"lam": 0.3}, Grids(tenths, {"k": (1, 2, 3)}))
    assert asked("ties", "0.5", ("density=0.1:0.1:1",), 3) == Asked(0.5, {"density": 0.1}, Grids())


def test_a_run_is_its_checkpoints(small: Family, tmp_path: Path) -> None:
    """A greedy soup tries each of them."""
    training = tmp_path / "run"
    for step, state in zip((10, 20, 30), small.tasks.values(), strict=True):
        families.save(training / f"checkpoint-{step}", state)
    (training / "checkpoint-last").mkdir()
    assert Folders(small.base_path, {"run": training}).count == 3
    command = script(tmp_path, "print(model.endswith('20') + 1)")
    words = ("merge", small.base_path, training, "--eval", command, "-o", tmp_path / "out")
    code, shown, err = run(*words, "--method", "greedy_soup")
    assert code == 0, err
    tried = [line.split()[0] for line in shown.splitlines()[2:5]]
    assert tried == ["checkpoint-20", "checkpoint-10", "checkpoint-30"]
    assert "note: run/checkpoint-last: left out" in err


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["--alpha", "0.1,0.2"], 2, "a grid needs --eval"),
        (["--option", "density=auto"], 2, "a grid needs --eval"),
        (["--plot", "x.html"], 2, "does nothing without --eval"),
        (["--minimise"], 2, "does nothing without --eval"),
        (["--eval", "x {model}", "--alpha", "0:1"], 2, "--alpha '0:1' is not a number"),
        (["--eval", "x {model}", "--option", "mean=auto"], 2, "mean has no published grid"),
        (
            ["--eval", "x {model}", "--alpha", "auto", "--plot", "x.png"],
            2,
            "ends in .html or .json",
        ),
        (["--eval", "x {model}", "--plot", "x.json"], 2, "0 are searched"),
        (
            ["--eval", "x {model}", "--alpha", "auto", "--plot", "no/x.json"],
            1,
            "no folder to be in",
        ),
        (["--eval", "x", "--alpha", "auto"], 2, "does not say where {model} goes"),
    ],
)
def test_errors_of_the_command(
    small: Family, tmp_path: Path, words: list[str], status: int, message: str
) -> None:
    models = list(small.paths.values())
    code, _, err = run(
        "merge", small.base_path, *models, "--method", "ties", *words, "-o", tmp_path / "out"
    )
    assert code == status
    assert message in err
    assert not os.listdir(tmp_path)
