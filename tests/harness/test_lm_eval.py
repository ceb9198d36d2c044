"""lm-eval on a live model: one load, and the scores that it gives for unpacked folders."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

import taskstore
from taskstore.errors import EvaluationFailed, OptionError
from taskstore.evaluation.bench import Bench, InFolders, evaluate
from taskstore.evaluation.journal import Journal
from taskstore.harness import LiveModels, LmEval
from tests.support import ROOT
from tests.support.evaluators import run

pytest.importorskip("lm_eval")
FAMILY = ROOT / "examples/family"
YAML = ROOT / "examples/lm_eval"
TASKS = ("roman", "spanish")
ASKED: dict[str, Any] = {"limit": 4, "batch_size": 4, "apply_chat_template": True}


@pytest.fixture(scope="module")
def numerals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("numerals") / "store"
    options = taskstore.PackOptions(tiers="rest")
    taskstore.pack(FAMILY / "base", {task: FAMILY / task for task in TASKS}, target, options)
    return target


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Task files name their data from the folder that holds examples/; nothing is downloaded."""
    import datasets

    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


def in_folder(folder: Path, task: str) -> float:
    """What the harness itself says of a model folder."""
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    found = simple_evaluate(
        model=HFLM(pretrained=str(folder), device="cpu", batch_size=4),
        tasks=[f"numerals_{task}"],
        task_manager=TaskManager(include_path=str(YAML), include_defaults=False),
        limit=4,
        apply_chat_template=True,
        bootstrap_iters=0,
    )
    return float(found["results"][f"numerals_{task}"]["exact_match,none"])


@pytest.mark.filterwarnings("ignore")
def test_one_load_gives_the_scores_of_the_harness_on_unpacked_folders(numerals: Path) -> None:
    store = taskstore.open(numerals)
    live = LiveModels(LmEval(["numerals_{task}"], include_path=YAML, **ASKED), device="cpu")
    found = evaluate(store, Bench(live, Journal(None)))
    assert live.loads == 1
    wanted = evaluate(store, Bench(InFolders(in_folder, None), Journal(None)))
    assert [s.rebuilt for s in found.scores] == [s.rebuilt for s in wanted.scores]
    assert all(s.rebuilt > 0.5 and s.n == 4 for s in found.scores)


@pytest.mark.filterwarnings("ignore")
def test_the_command_records_what_lm_eval_says(numerals: Path) -> None:
    words = (
        "--lm-eval",
        "numerals_{task}",
        "--include-path",
        YAML,
        "--limit",
        "3",
        "--record",
        "x",
    )
    more = ("--apply-chat-template", "--device", "cpu", "--batch", "3", "--json")
    status, said, _ = run("eval", numerals, "roman", *words, *more)
    (row,) = json.loads(said)["scores"]
    assert status == 0
    task = next(t for t in taskstore.open(numerals).summary().tasks if t.name == "roman")
    assert task.scores["x"]["rebuilt"] == row["rebuilt"] and row["n"] == task.scores["x"]["n"] == 3


def test_what_makes_no_sense_is_refused(numerals: Path, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="has no task 'numerals_roman'"):
        taskstore.evaluate(
            numerals, callback=LmEval(["numerals_{task}"], include_path=tmp_path), device="cpu"
        )
    for given, message in (
        ({"tasks": []}, "no task of lm-eval is named"),
        ({"tasks": ["x"], "limit": 0}, "limit 0 is not a number above 0"),
        ({"tasks": ["x"], "batch_size": 0}, "batch_size 0 is not a number above 0, or 'auto'"),
        ({"tasks": ["x"], "include_path": tmp_path / "none"}, "is no folder"),
    ):
        with pytest.raises(OptionError, match=re.escape(message)):
            LmEval(**given)
    (tmp_path / "bad.yaml").write_text("task: bad\ndataset_path: json\ntest_split: test\n")
    with pytest.raises(EvaluationFailed, match="failed in lm-eval"):
        taskstore.evaluate(
            numerals, callback=LmEval(["bad"], include_path=tmp_path), tasks=["roman"], device="cpu"
        )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "give --eval, a command of yours, or --lm-eval"),
        (
            ("--eval", "x {model}", "--lm-eval", "x"),
            "give --eval, a command of yours, or --lm-eval",
        ),
        (("--eval", "x {model}", "--limit", "3"), "--limit does nothing without --lm-eval"),
        (("--lm-eval", "x", "--timeout", "3"), "--timeout does nothing without --eval"),
    ],
)
def test_options_that_do_not_go_together(
    numerals: Path, words: tuple[str, ...], message: str
) -> None:
    status, _, said = run("eval", numerals, *words)
    assert status == 2 and message in said


@pytest.mark.filterwarnings("ignore")
def test_data_that_no_hub_gives_is_one_error(
    numerals: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "far.yaml").write_text(
        "task: far\ndataset_path: nobody/nothing-at-all\ntest_split: test\n"
        "output_type: multiple_choice\ndoc_to_text: x\ndoc_to_target: 0\ndoc_to_choice: [a, b]\n"
    )
    live = LiveModels(LmEval(["far"], include_path=tmp_path, limit=1), device="cpu")
    with pytest.raises(EvaluationFailed, match="'roman'.*data of far.*include_path"):
        evaluate(taskstore.open(numerals), Bench(live, Journal(None)))
    assert "Retry" not in capfd.readouterr().err
