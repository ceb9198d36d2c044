"""Families whose models are scored in this process, and every score kept by the weights' digest.

A task's own model (its head and its tokenizer) is loaded once; the shared tensors are written into
it. A score that is in the journal is not measured again, so an interrupted run goes on.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file
from torch import Tensor

from benchmarks.rates.vectors import Vectors, read

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples"))

from evaluate import load_items, share_right

ROOT = Path(__file__).resolve().parents[2]
FAMILIES = Path(os.environ.get("TASKSTORE_FAMILIES", ROOT.parent / "shared/families"))
transformers_logging: Any = transformers.utils.logging  # untyped
transformers_logging.set_verbosity_error()
transformers_logging.disable_progress_bar()

Score = Callable[[Any, Path, str, str, int], float]  # model, family, task, split, limit


@dataclass(frozen=True)
class Kind:
    """How the models of a family are loaded and scored; limit 0 takes all items."""

    load: Callable[[Path], Any]
    score: Score


@cache
def _evaluator(root: Path) -> Any:
    """The family's own eval.py."""
    spec = importlib.util.spec_from_file_location(f"eval_{root.name}", root / "eval.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _lm(model: Any, root: Path, task: str, split: str, limit: int) -> float:
    module, tokenizer = _evaluator(root), transformers.AutoTokenizer.from_pretrained(root / task)
    items = module.load(str(root / "data"), task, split, limit)
    return float(module.run(model, tokenizer, items))


def _vit(model: Any, root: Path, task: str, split: str, limit: int) -> float:
    module = _evaluator(root)
    return float(module.run(model, *module.load(str(root / "data"), task, split, limit)))


def _example(model: Any, root: Path, task: str, split: str, limit: int) -> float:
    """examples/evaluate.py; the data is in the family's folder or beside it."""
    tokenizer: Any = transformers.AutoTokenizer.from_pretrained(root / task, padding_side="left")
    data = next((d for d in (root / "data", root.parent / "data") if d.is_dir()), root)
    return share_right(model, tokenizer, load_items(task, split, limit or None, data))


def _text(model: Any, root: Path, task: str, split: str, limit: int) -> float:
    """Classes of texts; the data is beside the family's folder, in lines of text and label."""
    tokenizer: Any = transformers.AutoTokenizer.from_pretrained(root / task)
    lines = (root.parent / f"data/{task}.{split}.jsonl").read_text().splitlines()
    items = [json.loads(line) for line in lines][: limit or None]
    right = 0
    for start in range(0, len(items), 50):
        some = items[start : start + 50]
        texts = [one["text"] for one in some]
        inputs = tokenizer(texts, padding=True, truncation=True, max_length=48, return_tensors="pt")
        found = model(**inputs).logits.argmax(-1).tolist()
        right += sum(a == one["label"] for a, one in zip(found, some, strict=True))
    return right / len(items)


def _as_stored(folder: Path) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype="auto")


def _float32(folder: Path) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


LM = Kind(_as_stored, _lm)
VIT = Kind(transformers.ViTForImageClassification.from_pretrained, _vit)
EXAMPLE = Kind(_float32, _example)
TEXT = Kind(transformers.AutoModelForSequenceClassification.from_pretrained, _text)
KNOWN = {
    "numerals": (ROOT / "examples/family", EXAMPLE, 0),
    "vision4": (FAMILIES / "vision4", VIT, 0),
    "lm6": (FAMILIES / "lm6", LM, 100),
}


@dataclass
class Family:
    """One family, open; `limit` items of each split are scored, 0 for all."""

    name: str
    root: Path
    kind: Kind
    limit: int
    journal: Path
    tasks: list[str] = field(init=False)
    vectors: Vectors = field(init=False)

    def __post_init__(self) -> None:
        configs = sorted(self.root.glob("*/config.json"))
        self.tasks = [c.parent.name for c in configs if c.parent.name != "base"]
        if not self.tasks:
            raise ValueError(f"{self.root} holds no fine-tunes with a config.json")
        self.vectors = read(self.base, self.folders)
        self._models: dict[str, Any] = {}
        self._scores: dict[str, float] = {}
        if self.journal.exists():
            for line in self.journal.read_text().splitlines():
                entry = json.loads(line)
                self._scores[entry["key"]] = entry["score"]

    @property
    def base(self) -> Path:
        return self.root / "base"

    @property
    def folders(self) -> dict[str, Path]:
        return {task: self.root / task for task in self.tasks}

    def originals(self) -> dict[str, float]:
        """Test scores of the fine-tunes."""
        return {
            task: self.score(task, self.vectors.flat(load_file(folder / "model.safetensors")))
            for task, folder in self.folders.items()
        }

    def score(self, task: str, theta_N: Tensor, split: str = "test") -> float:
        """Score on a task with these shared weights."""
        digest = hashlib.blake2b(theta_N.view(torch.uint8).numpy().data, digest_size=12).hexdigest()
        key = f"{self.name}/{task}/{split}/{self.limit}/{digest}"
        if key not in self._scores:
            model = self._model(task)
            weights = model.state_dict()
            for name, weight in self.vectors.state(theta_N).items():
                weights[name].copy_(weight)
            self._scores[key] = self.kind.score(model, self.root, task, split, self.limit)
            with self.journal.open("a") as file:
                file.write(json.dumps({"key": key, "score": self._scores[key]}) + "\n")
        return self._scores[key]

    def _model(self, task: str) -> Any:
        if task not in self._models:
            self._models[task] = self.kind.load(self.root / task).eval()
        return self._models[task]


def open_family(word: str, limit: int | None, journal: Path) -> Family:
    """A known name, or NAME=FOLDER for a family of the example's kind or of classifiers of texts.

    Raises ValueError.
    """
    name, _, folder = word.partition("=")
    if folder:
        root = Path(folder).resolve()
        config = json.loads((root / "base/config.json").read_text())
        words = "ForSequenceClassification" in "".join(config.get("architectures") or ())
        return Family(name, root, TEXT if words else EXAMPLE, limit or 0, journal)
    if name not in KNOWN:
        raise ValueError(f"{name} is none of {', '.join(KNOWN)}; for others write NAME=FOLDER")
    root, kind, items = KNOWN[name]
    return Family(name, root, kind, items if limit is None else limit, journal)
