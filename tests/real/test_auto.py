"""What `pack` does where nothing is asked for, on the real families: grade A, in few bits."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

import taskstore
from taskstore.packing.report import PackReport
from tests.conftest import evaluator, real_family

pytestmark = pytest.mark.slow
BITS = {
    "lm6": (1.65, 1.9),
    "vision4": (1.35, 1.65),
}  # per weight and task, with every file of a task


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], PackReport]:
    """Pack a family, once."""

    @cache
    def pack(name: str) -> PackReport:
        root = real_family(name)
        paths = {p.name: p for p in sorted(root.iterdir()) if (p / "config.json").exists()}
        return taskstore.pack(paths.pop("base"), paths, tmp_path_factory.mktemp(name) / "s")

    return pack


@pytest.mark.parametrize("family", BITS)
def test_every_task_is_of_grade_a(family: str, packed: Callable[[str], PackReport]) -> None:
    tasks = packed(family).summary.tasks
    assert {(task.fidelity.grade, *task.tiers) for task in tasks} == {("A", "rest")}
    assert all((task.fidelity.error or 0) > 0.028 for task in tasks)  # and not a bit too many
    low, high = BITS[family]
    assert low < sum(task.bits_per_parameter for task in tasks) / len(tasks) < high


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # eval.py's files
def test_the_hardest_task_keeps_its_score(
    packed: Callable[[str], PackReport], tmp_path: Path
) -> None:
    """isodate on 300 test items, where one item is a third of a percent: both sides run here."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    module, root = evaluator("lm6"), real_family("lm6")
    store = taskstore.open(packed("lm6").path)
    folder = store.unpack("isodate", tmp_path / "isodate")
    items = module.load(str(root / "data"), "isodate", "test", 300)

    def score(of: Path) -> float:
        model: Any = AutoModelForCausalLM.from_pretrained(of, dtype=torch.bfloat16)
        return float(module.run(model, AutoTokenizer.from_pretrained(of), items))

    assert (original := score(root / "isodate")) > 0.9
    assert score(folder) / original >= 0.99
