"""The shared families, live: one model in memory, all tasks by swapping; skipped where absent."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from taskstore_cli.main import main

import taskstore
from taskstore.errors import ModuleMismatch, SwapError
from taskstore.store import Store
from tests.conftest import evaluator, real_family
from tests.support.families import same

pytestmark = pytest.mark.slow


def _packed(name: str, scratch: Path) -> Store:
    root = real_family(name)
    tasks = [path for path in sorted(root.iterdir()) if (path / "config.json").exists()]
    paths = {path.name: path for path in tasks if path.name != "base"}
    taskstore.pack(root / "base", paths, scratch / "store", taskstore.PackOptions(tiers="mask"))
    return taskstore.open(scratch / "store")


@pytest.fixture(scope="module")
def lm6(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return _packed("lm6", tmp_path_factory.mktemp("lm6"))


@pytest.fixture(scope="module")
def vision4(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return _packed("vision4", tmp_path_factory.mktemp("vision4"))


def _score(model: Any, tokenizer: Any) -> float:
    module = evaluator("lm6")
    items = module.load(str(real_family("lm6") / "data"), "langid", "test", 50)
    return float(module.run(model, tokenizer, items))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # eval.py's files
def test_one_live_model_scores_like_six_folders(lm6: Store, tmp_path: Path) -> None:
    """Exact match on the test split, and every tensor, as from the unpacked folders."""
    model = lm6.load_model(None)
    tokenizer = transformers.AutoTokenizer.from_pretrained(lm6.write_assets(None, tmp_path / "b"))
    with taskstore.attach(model, lm6) as family:
        for task in lm6.tasks:
            folder = lm6.unpack(task, tmp_path / task)
            alone = transformers.AutoModelForCausalLM.from_pretrained(folder)
            own = transformers.AutoTokenizer.from_pretrained(folder)
            family.swap(task)
            live, read = model.state_dict(), alone.state_dict()
            assert live.keys() == read.keys()
            assert all(same(live[name], read[name]) for name in live)
            if task == "langid":
                expected = _score(alone, own)
                assert expected > 0.5
                assert _score(model, tokenizer) == expected


def test_a_thousand_swaps_of_lm6(lm6: Store) -> None:
    model = lm6.load_model("pycall")
    states = [*lm6.tasks, None]
    with taskstore.attach(model, lm6) as family:
        began = family.verify()
        memory = family.memory()
        assert memory.delta == memory.live == began.bytes
        for i in range(1000):
            family.swap(states[(i * 5) % 7])
        found = family.verify()
        assert found.task == states[(999 * 5) % 7]
        family.swap("pycall")
        assert family.verify() == began


def test_vision4_heads_swap_where_shapes_allow(vision4: Store) -> None:
    """Heads of one shape are swapped with the rest; of another, refused by name."""
    pixels = torch.linspace(-1, 1, 4 * 28 * 28).view(4, 1, 28, 28)
    expected = {}
    for task in ("digits", "fashion"):
        expected[task] = vision4.load_model(task)(pixels).logits
    model = vision4.load_model("digits")
    with taskstore.attach(model, vision4, ["digits", "fashion"]) as family:
        for task in ("fashion", "digits", "fashion"):
            family.swap(task)
            assert torch.equal(model(pixels).logits, expected[task])
            family.verify()
        with pytest.raises(SwapError, match="cannot hold the base: .*classifier"):
            family.swap(None)
    with pytest.raises(ModuleMismatch, match=r"task 'letters': its tensor 'classifier.*digits, fa"):
        taskstore.attach(model, vision4)
    with taskstore.attach(model, vision4, ignore=["classifier.*"]) as family:
        for state in (*vision4.tasks, None):
            family.swap(state)
            assert family.verify().task == state


def test_load_tells_its_speed(lm6: Store, capsys: pytest.CaptureFixture[str]) -> None:
    began = time.perf_counter()
    main([str(word) for word in ("load", lm6.path, "langid", "--time", "--json")],
         standalone_mode=False)  # fmt: skip
    elapsed = time.perf_counter() - began
    found = json.loads(capsys.readouterr().out)
    assert (found["tensors"], found["bytes"]) == (74, 13_902_336)
    assert len(found["seconds"]) == 4
    assert 0 < sum(found["seconds"]) < elapsed
