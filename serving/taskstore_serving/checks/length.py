"""Refuses a --max-model-len that is longer than the base's config allows, before vLLM is loaded."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

from taskstore.errors import InputError
from taskstore_serving.checks.command_line import option_names, option_value

OPTION = "max-model-len"
_KEYS = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "model_max_length",
         "max_target_positions", "max_sequence_length", "max_seq_length", "seq_len")  # fmt: skip
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def check_length(words: Sequence[str], settings: Mapping[str, Any]) -> None:
    """Raise InputError where a server of this base config cannot have the length in vLLM's options.

    What only vLLM can tell is left to it: rope scaling, overrides, configuration files.
    """
    asked = _tokens(option_value(words, OPTION))
    text = settings.get("text_config")
    found = {**settings, **text} if isinstance(text, Mapping) else settings
    limits = {key: found[key] for key in _KEYS if isinstance(found.get(key), int)}
    if asked is None or not limits or _scaled(found) or _elsewhere(words):
        return
    key = min(limits, key=lambda name: limits[name])
    if asked > limits[key]:
        raise InputError(
            f"--{OPTION} {asked} is longer than the base takes: {key}={limits[key]} in its config; "
            f"give {limits[key]} or less"
        )


def _tokens(given: str | None) -> int | None:
    """A number as vLLM writes it: 4096, 4k, 1.5K."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([kKmMgG]?)", given or "")
    return match and int(float(match[1]) * _UNITS[match[2]])


def _scaled(settings: Mapping[str, Any]) -> bool:
    ropes = [settings.get("rope_parameters"), settings.get("rope_scaling")]
    return any("factor" in str(rope) for rope in ropes)


def _elsewhere(words: Sequence[str]) -> bool:
    over = {"hf-overrides", "hf-config-path", "config"} & option_names(words)
    return bool(over) or os.environ.get("VLLM_ALLOW_LONG_MAX_MODEL_LEN", "0") != "0"
