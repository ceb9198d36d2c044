"""Scores of one live model: what is loaded, what is swapped, and that scores are the folders'."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf

import taskstore
from taskstore.errors import EvaluationFailed, InputError
from taskstore.evaluation.bench import Bench, InFolders, evaluate
from taskstore.evaluation.journal import Journal
from taskstore.harness import LiveModels
from tests.support import tiny_models

TASKS = ("billing", "chat", "legal")


def family(root: Path, change: Callable[[str, Any], None] = lambda *_: None) -> dict[str, Path]:
    """A tiny Llama and fine-tunes of it; `change` may do something to a fine-tune."""
    base = tiny_models.llama(root / "base")
    found = {}
    for seed, task in enumerate(TASKS):
        model: Any = tf.LlamaForCausalLM.from_pretrained(base)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for weight in model.parameters():
                weight += 0.02 * torch.randn(weight.shape, generator=generator)
        change(task, model)
        found[task] = tiny_models.save_model(root / task, model)
    return {"base": base, **found}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> taskstore.Store:
    root = tmp_path_factory.mktemp("family")
    paths = family(root)
    finetunes = {task: paths[task] for task in TASKS}
    options = taskstore.PackOptions(tiers="mask,rest")
    taskstore.pack(paths["base"], finetunes, root / "store", options)
    return taskstore.open(root / "store")


def logit(model: Any, tokenizer: Any, task: str) -> float:
    """A number that tells any two models apart."""
    ids = torch.tensor([tokenizer(f"a {task[0]} c")["input_ids"]])
    return float(model(input_ids=ids).logits.double().square().mean())


def of_folder(folder: Path, task: str) -> float:
    model: Any = tf.AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        return logit(model, tf.AutoTokenizer.from_pretrained(folder), task)


def loaded(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What `Store.load_model` is asked for from now on."""
    asked: list[Any] = []
    load = taskstore.Store.load_model

    def counting(self: Any, task: Any, **options: Any) -> Any:
        asked.append(task)
        return load(self, task, **options)

    monkeypatch.setattr(taskstore.Store, "load_model", counting)
    return asked


def test_all_scores_cost_one_load_and_are_those_of_the_folders(
    store: taskstore.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, live = loaded(monkeypatch), LiveModels(logit, device="cpu")
    found = evaluate(store, Bench(live, Journal(None)), base=True)
    assert (live.loads, len(asked)) == (1, 1)
    wanted = evaluate(store, Bench(InFolders(of_folder, None), Journal(None)), base=True)
    assert found == wanted
    assert {len({s.rebuilt, s.base, *s.lower.values()}) for s in found.scores} == {3}


def test_an_original_is_loaded_on_its_own(store: taskstore.Store, tmp_path: Path) -> None:
    live = LiveModels(logit, ["legal"], device="cpu")
    original = store.path.parent / "legal"
    bench = Bench(live, Journal(None))
    (score,) = evaluate(store, bench, tasks=["legal"], originals={"legal": original}).scores
    assert score.original == of_folder(original, "legal")
    assert live.loads == 2
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(InputError, match="the original of task 'legal' has no config.json; score"):
        evaluate(store, bench, tasks=["legal"], originals={"legal": tmp_path})


def test_a_task_whose_config_computes_something_else_is_loaded_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def change(task: str, model: Any) -> None:
        model.generation_config.max_new_tokens = len(task)
        if task == "chat":
            model.config.rms_norm_eps = 1e-2

    paths = family(tmp_path, change)
    taskstore.pack(paths["base"], {t: paths[t] for t in TASKS}, tmp_path / "store")
    lengths: dict[str, int] = {}

    def scored(model: Any, tokenizer: Any, task: str) -> float:
        lengths[task] = model.generation_config.max_new_tokens
        return logit(model, tokenizer, task)

    asked = loaded(monkeypatch)
    opened = taskstore.open(tmp_path / "store")
    found = taskstore.evaluate(opened, callback=scored, device="cpu")
    assert sorted(asked) == ["billing", "chat", "legal"]  # legal again: chat stood between
    wanted = taskstore.evaluate(opened, of_folder)
    assert found == wanted
    assert lengths == {task: len(task) for task in TASKS}


def test_tasks_with_heads_of_their_own_are_scored_too(tmp_path: Path) -> None:
    base = tiny_models.bert(tmp_path / "base", classes=3)
    finetunes = {}
    for classes, task in ((2, "two"), (5, "five")):
        config = json.loads((base / "config.json").read_text())
        model: Any = tf.BertForSequenceClassification.from_pretrained(
            base, num_labels=classes, ignore_mismatched_sizes=True
        )
        assert config["id2label"] != model.config.id2label
        finetunes[task] = tiny_models.save_model(tmp_path / task, model)
    with torch.no_grad():
        for task, path in finetunes.items():
            model = tf.BertForSequenceClassification.from_pretrained(path)
            model.bert.embeddings.word_embeddings.weight += 0.01 * len(task)
            model.save_pretrained(path)
    options = taskstore.PackOptions(keep_private=True)
    taskstore.pack(base, finetunes, tmp_path / "store", options)
    found = taskstore.evaluate(
        tmp_path / "store", callback=lambda m, t, task: m.config.num_labels, device="cpu"
    )
    assert {s.task: s.rebuilt for s in found.scores} == {"two": 2, "five": 5}


@pytest.mark.parametrize("bad", [float("nan"), "0.5", None])
def test_a_score_that_is_none(store: taskstore.Store, bad: Any) -> None:
    with pytest.raises(EvaluationFailed, match="no finite number"):
        taskstore.evaluate(store, callback=lambda *_: bad, tasks=["chat"], device="cpu")
