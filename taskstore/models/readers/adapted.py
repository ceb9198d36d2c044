"""What an adapter changes beside the weights: the config of the model that it makes of its base.

Also what it says of the base that it was trained on, where that is not the base that is given.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from taskstore.errors import CheckpointError
from taskstore.format.rules.kept_adapters import FILE
from taskstore.models.checkpoint import Checkpoint, TensorInfo
from taskstore.models.config import CONFIG, read_config, read_settings
from taskstore.models.original_files import Originals, of_files
from taskstore.models.readers import adapter_config
from taskstore.models.readers.adapter_names import IN
from taskstore.models.readers.lora import LoraReader
from taskstore.models.readers.safetensors import SafetensorsReader

MAX_LABELS = 100_000
_CLASSES = {"SEQ_CLS": "SequenceClassification", "TOKEN_CLS": "TokenClassification",
            "QUESTION_ANS": "QuestionAnswering"}  # fmt: skip
_TASK_ENDS = re.compile(r"(For[A-Z]\w+|LMHeadModel|DoubleHeadsModel|Model)$")
_LABELS = re.compile(r"(^|\.)(score|classifier|classifier\.out_proj|out_proj)\.weight$")
_HUB = re.compile(r"models--(?P<id>[^/]+)/snapshots/(?P<revision>[0-9a-f]{40})")
_QUANTISED = re.compile(r"(-unsloth)?-bnb-[48]bit$|-[48]bit$", re.IGNORECASE)


def rebuilt_config(
    adapter: LoraReader, own: Mapping[str, Path], base: Checkpoint
) -> dict[str, Any] | None:
    """Return the config of the model that an adapter makes; None where it is the base's or its own.

    `own` are the files in the adapter's folder, whose config.json stands before the base's.
    """
    path = own.get(CONFIG, base.assets.get(CONFIG))
    config = read_settings(path) if path else {}
    if not config:
        return None
    changed = json.loads(json.dumps(config))
    _set_vocabulary(changed, base.tensors, adapter.tensors)
    if adapter.own_head:
        for part in (changed, changed.get("text_config")):
            if isinstance(part, dict):
                part["tie_word_embeddings"] = False
    heads = [name for name in adapter.saved if name not in base.tensors]
    if CONFIG not in own and heads != [adapter.own_head]:
        _set_head(changed, adapter, heads)
    return None if changed == config else changed


def _set_vocabulary(
    config: dict[str, Any], before: Mapping[str, TensorInfo], now: Mapping[str, TensorInfo]
) -> None:
    """Set vocab_size where the embedding got another number of rows."""
    for name in before:
        if name.endswith(IN) and before[name].shape[0] != now[name].shape[0]:
            for part in (config, config.get("text_config")):
                if isinstance(part, dict) and part.get("vocab_size") == before[name].shape[0]:
                    part["vocab_size"] = now[name].shape[0]


def _set_head(config: dict[str, Any], adapter: LoraReader, heads: list[str]) -> None:
    """Set the architecture that has a new head, and as many labels as it has rows."""
    mapping = adapter.config.get("auto_mapping")
    made_by = mapping if isinstance(mapping, dict) else {}
    name, library = made_by.get("base_model_class"), str(made_by.get("parent_library", ""))
    architectures = config.get("architectures")
    kind = _CLASSES.get(str(adapter.config.get("task_type")))
    if heads and isinstance(name, str) and name.isidentifier() and library[:13] == "transformers.":
        config["architectures"] = [name]
    elif heads and kind and isinstance(architectures, list) and architectures:
        config["architectures"] = [f"{_TASK_ENDS.sub('', str(architectures[0]))}For{kind}"]
    rows = [adapter.tensors[n].shape[0] for n in adapter.saved if _LABELS.search(n)]
    known = config.get("id2label")
    if (
        rows
        and 0 < rows[0] <= MAX_LABELS
        and rows[0] != (len(known) if isinstance(known, dict) else 2)
    ):
        config["id2label"] = {str(i): f"LABEL_{i}" for i in range(rows[0])}
        config["label2id"] = {f"LABEL_{i}": i for i in range(rows[0])}
        config.pop("num_labels", None)


def notes_on_base(folder: Path, config: Mapping[str, Any], base: Checkpoint) -> tuple[str, ...]:
    """Say that an adapter was trained on another base than this; () where the names agree.

    Raises CheckpointError where it was trained on another revision of the same repository.
    """
    named = config.get("base_model_name_or_path")
    if not isinstance(named, str) or not named.strip():
        return ()
    cached = _HUB.search(named)
    theirs = cached["id"].replace("--", "/", 1) if cached else named.rstrip("/")
    revision = cached["revision"] if cached else config.get("revision")
    own = read_config(base).get("_name_or_path")
    ours = [base.source, own if isinstance(own, str) and own else None, str(base.path)]
    known = [name for name in ours if name]
    if os.path.isdir(named) and os.path.realpath(named) == os.path.realpath(base.path):
        return ()
    if not any(_last(name) == _last(theirs) for name in known):
        shown = known[0] if base.revision else (known[1] if len(known) > 2 else base.path.name)
        return (
            f"the adapter was trained on {theirs[:200]!r}, and the base given is {shown[:200]!r}; "
            "on another base it makes another model than the one that was trained",
        )
    whole = isinstance(revision, str) and re.fullmatch(r"[0-9a-f]{40}", revision)
    if whole and base.revision and revision != base.revision:
        raise CheckpointError(
            folder,
            f"was trained on revision {str(revision)[:12]} of {theirs}, and the base given is "
            f"revision {base.revision[:12]}; give that revision, or take 'revision' out of "
            "adapter_config.json where the weights are the same",
        )
    return ()


def _last(name: str) -> str:
    """The name of a model without its owner, folders and what says how it was quantised."""
    found = _HUB.search(name)
    last = found["id"].split("--")[-1] if found else name.rstrip("/").rsplit("/", 1)[-1]
    return _QUANTISED.sub("", last).lower()


def write_config(folder: Path, config: Mapping[str, Any]) -> Path:
    """Write a config.json; returns where it lies, by a path without links."""
    path = Path(os.path.realpath(folder)) / CONFIG
    path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


def adapter_files(reader: LoraReader) -> tuple[Originals | None, dict[str, Path]]:
    """Return an adapter's weight file, where it can come back as it was, and files beside it."""
    beside = {
        name: path
        for name in (adapter_config.CONFIG, "README.md")
        if (path := reader.folder / name).is_file()
    }
    own = reader.factors
    if not isinstance(own, SafetensorsReader) or own.repeats:
        return None, beside
    found = of_files(own.files, None)
    return (found if found and [f.name for f in found.files] == [FILE] else None), beside
