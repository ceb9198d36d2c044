"""Quantised vectors and archive codecs on the real families; skipped where they are not there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import taskstore
from taskstore.packing.options import PackOptions
from taskstore.store import Store
from taskstore.store.verify import verify
from tests.conftest import evaluator, real_family

pytestmark = pytest.mark.slow
LM6 = ("isodate", "jsonfield", "langid", "mansec", "pycall", "section")


def packed(tmp_path: Path, **options: Any) -> Store:
    root = real_family("lm6")
    paths = {task: root / task for task in LM6}
    taskstore.pack(root / "base", paths, tmp_path / "store", PackOptions(**options))
    return taskstore.open(tmp_path / "store")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # eval.py's files
def test_one_bit_keeps_the_hardest_task(tmp_path: Path) -> None:
    """isodate on 100 validation items: a mask keeps 0.54 of 0.94, in more than twice the bytes."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    store = packed(tmp_path, tiers="rest", residual=1.0)
    assert store.summary().bits_per_parameter_and_task < 1.2
    assert verify(store, deep=True).ok
    folder = store.unpack("isodate", tmp_path / "isodate")
    module, root = evaluator("lm6"), real_family("lm6")
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    items = module.load(str(root / "data"), "isodate", "val", 100)
    assert module.run(model, AutoTokenizer.from_pretrained(folder), items) / 0.94 > 0.88


def test_two_bits_miss_a_tenth(tmp_path: Path) -> None:
    store = packed(tmp_path, tiers="rest")
    assert store.summary().bits_per_parameter_and_task < 2.1
    base = store.state_dict(None)
    for task in LM6:
        original = load_file(real_family("lm6") / task / "model.safetensors")
        rebuilt = store.state_dict(task)
        missed = along = size = 0.0
        for name, value in original.items():
            tau = value.double() - base[name].double()
            found = rebuilt[name].double() - base[name].double()
            missed += float((found - tau).square().sum())
            along += float((found * tau).sum())
            size += float(tau.square().sum())
        assert missed / size < 0.12, task
        assert abs(along / size - 1) < 0.01, task  # as long as it was


def test_the_archive_level_is_smaller_and_still_exact(tmp_path: Path) -> None:
    store = packed(tmp_path, tiers="exact", level="archive")
    summary = store.summary()
    assert 8 * summary.exact_bytes / summary.parameters / len(LM6) <= 7.2
    folder = store.unpack("pycall", tmp_path / "pycall")
    for path in (real_family("lm6") / "pycall").glob("*.safetensors"):
        assert (folder / path.name).read_bytes() == path.read_bytes()


def test_masks_at_the_archive_level(tmp_path: Path) -> None:
    """At least 0.8 of what the size of the merged vector tells: entropy falls from 0.92 to 0.75."""
    store = packed(tmp_path, method="sum", lam=0.4, level="archive")
    summary = store.summary()
    assert 8 * summary.masks_bytes / summary.parameters / len(LM6) <= 0.92 - 0.8 * (0.92 - 0.75)
    assert 8 * summary.multitask_bytes / summary.parameters <= 9.1
    assert verify(store, deep=True).ok
