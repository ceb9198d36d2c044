"""Every reader over every entry of the table: refused in little time and memory, by name."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file
from taskstore_cli.main import main

import taskstore
from taskstore.errors import TaskstoreError
from taskstore.evaluation.journal import Journal
from taskstore.merging.mergekit import recipe
from taskstore.models import live, open_checkpoint
from taskstore.packing.mask_files import npy
from taskstore.statistics import records
from taskstore.statistics.statistics_file import Statistics
from taskstore.store.verify import verify
from tests.support import families, hostile
from tests.support.broken import W, one_line
from tests.support.hostile import Make

Use = Callable[[Path], object]


@dataclass(frozen=True)
class Kind:
    """A kind of file: where it lies in a fresh folder, what is put there, what reads it.

    lenient    entries that need not be refused: they are read as nothing, or left out
    """

    place: str
    content: dict[str, Make]
    readers: dict[str, Use]
    lenient: tuple[str, ...] = ()


def _tell(problems: list[str]) -> None:
    if problems:
        raise TaskstoreError(problems[0])


def _cli(*words: str) -> Use:
    def use(root: Path) -> None:
        done = CliRunner().invoke(main, [word.format(root=root) for word in words])
        if done.exception and not isinstance(done.exception, SystemExit):
            raise done.exception
        if done.exit_code:
            raise TaskstoreError(done.output.strip().splitlines()[-1])

    return use


def _prompts(root: Path) -> list[str]:
    found = records.read(root / "data.jsonl", 10, 0)
    return [record.text("a") for record in found.records]


STORE: dict[str, Use] = {
    "state_dict": lambda root: taskstore.open(root / "store").state_dict("alpha"),
    "unpack": lambda root: taskstore.open(root / "store").unpack("alpha", root / "out"),
    "verify": lambda root: _tell(list(verify(taskstore.open(root / "store"), deep=True).problems)),
    "info": _cli("info", "{root}/store"),
}
EVAL = "sh -c 'echo 1' {{model}}"
COMMANDS: dict[str, Use] = {
    "load": _cli("load", "{root}/store", "--base"),
    "add": _cli("add", "{root}/store", "one={root}/model"),
    "remove": _cli("remove", "{root}/store", "alpha", "--yes"),
    "retier": _cli("retier", "{root}/store", "--tiers", "mask", "-o", "{root}/new"),
    "report": _cli("report", "{root}/store", "-o", "{root}/new"),
    "merge": _cli("merge", "{root}/store", "alpha", "--method", "average", "-o", "{root}/new"),
    "eval": _cli("eval", "{root}/store", "--base", "--eval", EVAL),
}
OPENING = {name: use for name, use in COMMANDS.items() if name != "merge"}  # it takes models, too
MODEL: dict[str, Use] = {
    "open": lambda root: open_checkpoint(root / "model").close(),
    "pack": _cli("pack", "{root}/base", "one={root}/model", "-o", "{root}/new", "--quiet"),
}
ADAPTER: dict[str, Use] = {
    "pack": _cli("pack", "{root}/base", "one={root}/adapter", "-o", "{root}/new", "--quiet")
}
ANYTHING, JSON = hostile.ANYTHING, hostile.JSON
KINDS: dict[str, Kind] = {
    "manifest": Kind("store/taskstore.json", ANYTHING | JSON, STORE | OPENING),
    "container": Kind(
        "store/base.safetensors",
        ANYTHING | hostile.SAFETENSORS,
        {
            **{name: STORE[name] for name in ("state_dict", "unpack", "verify")},
            **{name: COMMANDS[name] for name in ("load", "add", "merge", "eval")},
        },
    ),
    "asset": Kind(
        "store/assets/{asset}",
        ANYTHING,
        {
            "unpack": STORE["unpack"],
            "assets": lambda root: taskstore.open(root / "store").write_assets("alpha", root / "x"),
        },
    ),
    "weights": Kind("model/model.safetensors", ANYTHING | hostile.SAFETENSORS, MODEL),
    "pickled weights": Kind("model/pytorch_model.bin", ANYTHING | hostile.PICKLES, MODEL),
    "index": Kind("model/model.safetensors.index.json", ANYTHING | JSON, MODEL),
    "config": Kind(
        "model/config.json",
        ANYTHING | JSON,
        {"class": lambda root: live.model_class(root / "model", "a model")},
    ),
    "adapter config": Kind("adapter/adapter_config.json", ANYTHING | JSON, ADAPTER),
    "adapter weights": Kind(
        "adapter/adapter_model.safetensors", ANYTHING | hostile.SAFETENSORS, ADAPTER
    ),
    "recipe": Kind(
        "recipe.yaml",
        ANYTHING | hostile.YAML,
        {
            "read": lambda root: recipe.read(root / "recipe.yaml"),
            "merge": _cli("merge", "--config", "{root}/recipe.yaml", "-o", "{root}/new"),
        },
    ),
    "statistics": Kind(
        "s.safetensors",
        ANYTHING | hostile.SAFETENSORS,
        {"open": lambda root: Statistics(root / "s.safetensors").close()},
    ),
    "masks": Kind(
        "masks.npy", ANYTHING | hostile.MASKS, {"read": lambda root: npy.read(root / "masks.npy")}
    ),
    "examples": Kind(
        "data.jsonl",
        ANYTHING | {name: make for name, make in JSON.items() if "objects" not in name},
        {"read": _prompts},
    ),
    "journal": Kind(
        "scores.jsonl",
        ANYTHING | JSON,
        {"open": lambda root: Journal(root / "scores.jsonl").score(("x",), lambda: 1.0)},
        lenient=("empty", "link to nowhere", "deep lists"),  # new, or cut off
    ),
}
CASES = [
    pytest.param(kind, entry, reader, id=f"{kind}: {entry}, {reader}")
    for kind, about in KINDS.items()
    for entry in about.content
    for reader in about.readers
]


@pytest.fixture(scope="module")
def good(small: families.Family, packed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One of everything, good."""
    root = tmp_path_factory.mktemp("good")
    shutil.copytree(packed, root / "store")
    shutil.copytree(small.base_path, root / "base")
    shutil.copytree(small.paths["alpha"], root / "model")
    (root / "adapter").mkdir()
    factors = {
        f"{W[:-7]}.lora_A.weight": torch.ones(2, 31),
        f"{W[:-7]}.lora_B.weight": torch.ones(33, 2),
    }
    save_file(
        {f"base_model.model.{name}": value for name, value in factors.items()},
        root / "adapter" / "adapter_model.safetensors",
    )
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["weight"]}
    (root / "adapter" / "adapter_config.json").write_text(json.dumps(config))
    return root


@pytest.fixture
def fresh(good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(good, tmp_path, dirs_exist_ok=True, copy_function=os.link)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def place_of(kind: str, root: Path) -> Path:
    asset = next(iter(taskstore.open(root / "store").manifest.tasks["alpha"].assets.values()))
    return root / KINDS[kind].place.format(asset=asset)


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("kind", "entry", "reader"), CASES)
def test_refused_by_name(kind: str, entry: str, reader: str, fresh: Path) -> None:
    about, path = KINDS[kind], place_of(kind, fresh)
    if kind in ("pickled weights", "index"):  # read where there is no model.safetensors
        (fresh / "model" / "model.safetensors").unlink()
    hostile.put(path, about.content[entry])
    wanted = pytest.raises(TaskstoreError) if entry not in about.lenient else nullcontext()
    with wanted as caught, hostile.bounded():
        about.readers[reader](fresh)
    if caught is not None:
        one_line(caught.value)
        message = str(caught.value)
        assert len(message) < 2000
        assert path.name in message or path.parent.name in message
    assert not (fresh / "RAN").exists()
    assert not (fresh / "new").exists()
    assert not (fresh / "out").exists()


@pytest.mark.parametrize("name", ["store", "model", "adapter"])
def test_the_good_ones_pass(name: str, fresh: Path) -> None:
    for use in {"store": STORE, "model": MODEL, "adapter": ADAPTER}[name].values():
        use(fresh)
        for made in ("out", "new"):
            shutil.rmtree(fresh / made, ignore_errors=True)
