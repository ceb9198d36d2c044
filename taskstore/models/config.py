"""Read a model's config.json, and write it with changes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from taskstore.format import json_text
from taskstore.locations.files import copy_regular
from taskstore.models.checkpoint import Checkpoint

CONFIG = "config.json"
TORCH = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}


def read_config(model: Checkpoint) -> dict[str, Any]:
    """Read a model's config.json; empty where there is none."""
    return read_settings(model.assets[CONFIG]) if CONFIG in model.assets else {}


def read_settings(path: Path) -> dict[str, Any]:
    """Read one config.json; empty where there is no such file, or it is no JSON object."""
    try:
        config = json_text.read(path, path.parent)
    except (OSError, ValueError):
        return {}
    return config if isinstance(config, dict) else {}


def language_config(model: Checkpoint) -> dict[str, Any]:
    """Read config.json with a language model's own part (`text_config`) on top."""
    config = read_config(model)
    inner = config.get("text_config")
    if not isinstance(inner, dict):
        return config
    return {**config, **inner, **{k: v for k, v in config.items() if k == "model_type"}}


def quantisation(model: Checkpoint) -> str:
    """Return the method that the config's quantization_config names, "" where there is none."""
    found = read_config(model).get("quantization_config")
    return str(found.get("quant_method") or "quantized") if isinstance(found, dict) else ""


def write_config(model: Checkpoint, folder: Path, changes: Mapping[str, Any]) -> None:
    """Write a model's config.json; `changes` sets members that it has.

    One that is not JSON is copied as it is.
    """
    source = model.assets.get(CONFIG)
    if source is None:
        return
    config = read_config(model)
    changed = config | {key: value for key, value in changes.items() if key in config}
    if changed == config:
        copy_regular(source, folder / CONFIG)
    else:
        write_settings(folder / CONFIG, changed)


def write_settings(path: Path, settings: Mapping[str, Any]) -> None:
    text = json.dumps(settings, indent=2, ensure_ascii=False) + "\n"
    path.write_text(text, encoding="utf-8")
