"""Read a model's config.json, and write it with changes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from taskstore.format import json_text
from taskstore.locations.files import copy_regular
from taskstore.models.checkpoint import Checkpoint

CONFIG = "config.json"
TORCH = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}
# Settings that say how a model was trained, saved or is to be sampled from; names of labels, the
# longest input, and how weights were once quantised: those of a store are what they are.
_LISTED = """
    _name_or_path name_or_path transformers_version torch_dtype dtype architectures auto_map
    _commit_hash use_cache return_dict output_attentions output_hidden_states output_router_logits
    id2label label2id problem_type finetuning_task task_specific_params tokenizer_class prefix
    initializer_range initializer_factor gradient_checkpointing pretraining_tp classifier_dropout
    router_aux_loss_coef router_jitter_noise chunk_size_feed_forward max_position_embeddings
    max_window_layers do_sample temperature top_k top_p max_length min_length num_beams
    repetition_penalty length_penalty no_repeat_ngram_size early_stopping quantization_config
"""
_NOTES = frozenset(_LISTED.split())
_ENDINGS = ("_token_id", "_token_ids", "dropout", "_pdrop", "_attn_implementation")


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


def differing(own: Mapping[str, Any], base: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Settings with which a model computes something else: name, own, the base's."""
    for name in sorted({*own, *base}):
        if name in _NOTES or name.endswith(_ENDINGS):
            continue
        mine, theirs = own.get(name), base.get(name)
        if isinstance(mine, Mapping) and isinstance(theirs, Mapping):
            yield from ((f"{name}.{n}", a, b) for n, a, b in differing(mine, theirs))
        elif mine != theirs:
            yield name, mine, theirs
