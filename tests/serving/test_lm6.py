"""A real family behind one URL: every task scores what its rebuilt folder scores."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import taskstore
from tests.conftest import evaluator, real_family
from tests.serving.support.engines import need_vllm

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]
TASKS = ["isodate", "jsonfield", "langid", "mansec", "pycall", "section"]
ITEMS = 30  # of each task


def test_scores_over_http_are_those_of_the_rebuilt_folders(tmp_path: Path) -> None:
    need_vllm()
    from tests.serving.support.fronted import chat, said, serving

    family = real_family("lm6")
    paths = {task: family / task for task in TASKS}
    taskstore.pack(family / "base", paths, tmp_path / "store", taskstore.PackOptions(tiers="mask"))
    items = {task: evaluator("lm6").load(family / "data", task, "test", ITEMS) for task in TASKS}
    asked = [(task, item) for task in TASKS for item in items[task]]
    random.Random(1).shuffle(asked)  # tasks change at every request
    with (
        serving(tmp_path, vllm=["--max-model-len", "512"]) as server,
        ThreadPoolExecutor(16) as clients,
    ):

        def right(one: tuple[str, dict[str, str]]) -> bool:
            task, item = one
            answer = said(chat(server, task, item["prompt"], max_tokens=64))
            return answer.strip() == item["answer"].strip()

        good = list(clients.map(right, asked))
        metrics = server.http.get("/metrics").text
    scores = {
        task: sum(ok for ok, (name, _) in zip(good, asked, strict=True) if name == task) / ITEMS
        for task in TASKS
    }
    assert scores == {task: _score(tmp_path, task, items[task]) for task in TASKS}
    assert min(scores.values()) > 0.3  # each as its own task: others' weights score next to nothing
    for task in TASKS:
        counted = [line for line in metrics.splitlines() if f'task="{task}"' in line]
        done = [ln for ln in counted if ln.startswith("taskstore_requests_total")]
        assert sum(float(line.split()[-1]) for line in done) == ITEMS


def _score(root: Path, task: str, items: list[Any]) -> float:
    """Of the rebuilt folder, in float32, by transformers."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = root / task
    taskstore.open(root / "store").unpack(task, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="float32").eval()
    found: float = evaluator("lm6").run(model, tokenizer, items)
    return found
