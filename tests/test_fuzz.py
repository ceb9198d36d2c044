"""Mutated manifests, headers, adapters' configs, recipes: read, or refused in one line of words.

Each run tries the same examples (100 of each, in CI 400), unless TASKSTORE_FUZZ says how many new
ones to try, for a search. What one finds becomes an entry of tests/support/hostile.py or an
`@example`.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf
import yaml
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from taskstore_cli.main import main

import taskstore
from taskstore.errors import TaskstoreError
from taskstore.merging.mergekit import recipe
from taskstore.models import live, open_checkpoint
from taskstore.models.config import language_config
from taskstore.statistics.statistics_file import Statistics
from tests.support import families, forge, hostile, mutations
from tests.support.broken import W, one_line

USUAL = "400" if os.environ.get("CI") else "100"
WANTED = os.environ.get("TASKSTORE_FUZZ")
longer = settings(max_examples=int(WANTED or USUAL), derandomize=WANTED is None)
RECIPE: dict[str, Any] = {
    "merge_method": "ties",
    "base_model": "base",
    "models": [
        {"model": "one", "parameters": {"weight": 1.0, "density": 0.5}},
        {"model": "two", "parameters": {"weight": [0.1, 0.2], "density": 0.2}},
    ],
    "parameters": {"normalize": True, "int8_mask": False, "lambda": 0.9},
    "dtype": "bfloat16",
    "tokenizer_source": "base",
}
ADAPTER: dict[str, Any] = {
    "peft_type": "LORA",
    "r": 2,
    "lora_alpha": 4,
    "target_modules": ["attn"],
    "alpha_pattern": {r"layers\.\d+\.attn": 8, "mlp": 2},
    "rank_pattern": {},
    "use_rslora": True,
    "modules_to_save": None,
    "init_lora_weights": True,
}


def tried(use: Callable[[], object]) -> None:
    """It returns, or raises one line; in little memory."""
    try:
        with hostile.bounded():
            use()
    except TaskstoreError as error:
        one_line(error)


def read_all(model: taskstore.models.Checkpoint) -> None:
    language_config(model)
    for name, info in model.tensors.items():
        model.read(name, 0, min(info.numel, 64))
    model.close()


@pytest.fixture(scope="module")
def work(packed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("fuzz")
    shutil.copytree(packed, root / "store")
    return root


@longer
@given(data=st.data())
def test_manifest(packed: Path, work: Path, data: st.DataObject) -> None:
    store = work / "store"
    document = data.draw(mutations.mutated(forge.load(packed)))
    with suppress(UnicodeEncodeError, AssertionError):
        if isinstance(document, dict):
            forge.seal(store, document)
    tried(lambda: taskstore.open(store).summary())
    done = CliRunner().invoke(main, ["info", str(store)])
    assert done.exception is None or isinstance(done.exception, SystemExit)


@pytest.mark.timeout(300)
@longer
@given(data=st.data())
def test_header(work: Path, data: st.DataObject) -> None:
    good = {
        "__metadata__": {"format": "pt"},
        "fisher/a": hostile.tensor([2, 2], [0, 16]),
        "b": hostile.tensor([4], [16, 24], "BF16"),
        "c": hostile.tensor([], [24, 28]),
        "d": hostile.tensor([0, 3], [28, 28]),
    }
    size = data.draw(st.sampled_from([None, None, None, 0, 7, 1 << 20, (1 << 64) - 1]))
    raw = hostile.header(data.draw(mutations.json_of(good)), bytes(28), size)
    path = work / "model.safetensors"
    path.write_bytes(raw)
    tried(lambda: read_all(open_checkpoint(path)))
    tried(lambda: Statistics(path).close())


@pytest.mark.timeout(300)
@longer
@given(data=st.data())
def test_adapter_config(small: families.Family, work: Path, data: st.DataObject) -> None:
    folder = work / "adapter"
    folder.mkdir(exist_ok=True)
    layer = f"base_model.model.{W[:-7]}"
    if not (folder / "adapter_model.safetensors").exists():
        factors = {"lora_A": torch.ones(2, 31), "lora_B": torch.ones(33, 2)}
        save_file(
            {f"{layer}.{name}.weight": value for name, value in factors.items()},
            folder / "adapter_model.safetensors",
        )
    (folder / "adapter_config.json").write_bytes(data.draw(mutations.json_of(ADAPTER)))
    base = open_checkpoint(small.base_path)
    tried(lambda: read_all(open_checkpoint(folder, base=base)))
    base.close()


@pytest.mark.timeout(300)
@longer
@given(data=st.data())
def test_recipe(work: Path, data: st.DataObject) -> None:
    path = work / "recipe.yaml"
    if data.draw(st.booleans()):
        path.write_bytes(data.draw(mutations.json_of(RECIPE)))  # YAML, but for its odd characters
    else:
        text = yaml.safe_dump(data.draw(mutations.mutated(RECIPE)), allow_unicode=False)
        path.write_bytes(text.encode(errors="surrogatepass"))
    tried(lambda: recipe.read(path))


@pytest.mark.timeout(300)
@longer
@given(data=st.data())
def test_config(work: Path, data: st.DataObject) -> None:
    good = json.loads(tf.LlamaConfig(hidden_size=64, num_hidden_layers=1).to_json_string())
    good["architectures"] = ["LlamaForCausalLM"]
    folder = work / "config"
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_bytes(data.draw(mutations.json_of(good)))
    tried(lambda: live.model_class(folder, "a model"))
