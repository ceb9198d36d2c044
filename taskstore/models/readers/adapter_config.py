"""Read `adapter_config.json`: what can be merged here, and what PEFT has to merge first."""

from __future__ import annotations

import math
import reprlib
from pathlib import Path
from typing import Any

from taskstore.errors import CheckpointError
from taskstore.format import json_text
from taskstore.locations.pointers import pointer
from taskstore.models.readers.patterns import Patterns

CONFIG = "adapter_config.json"
MAX_ALPHA = 1e30
MERGED = ("LORA", "IA3")
WITHOUT_WEIGHTS = (  # they steer a model and change none of its weights
    *("PROMPT_TUNING", "MULTITASK_PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "ADAPTION_PROMPT"),
    *("CPT", "POLY", "XLORA", "CARTRIDGE"),
)
_REFUSED = (
    *("lora_bias", "megatron_config", "use_qalora", "layer_replication", "arrow_config"),
    *("use_bdlora", "kasa_config", "monteclora_config", "velora_config"),
)
_RESIDUAL = ("pissa", "olora", "corda", "loftq", "lora_ga")  # initialisations that change W itself
MERGE_FIRST = (
    "merge it with PEFT first and give the merged folder: from peft import PeftModel; "
    "from transformers import AutoModelForCausalLM; PeftModel.from_pretrained("
    "AutoModelForCausalLM.from_pretrained('BASE'), 'ADAPTER').merge_and_unload()"
    ".save_pretrained('MERGED')"
)


def read_config(folder: Path) -> dict[str, Any]:
    """Read `adapter_config.json`; raises CheckpointError where it is not merged here."""
    try:
        config = json_text.read(folder / CONFIG, folder)
    except (ValueError, OSError) as error:
        why = getattr(error, "strerror", None) or error
        wrong = pointer(folder / CONFIG, folder)
        problem = wrong.problem if wrong else f"cannot be read as JSON: {why}"
        raise CheckpointError(folder / CONFIG, problem) from None
    if not isinstance(config, dict):
        raise CheckpointError(folder, f"is no adapter: its {CONFIG} is no JSON object")
    kind = config.get("peft_type")
    if kind in WITHOUT_WEIGHTS:
        raise CheckpointError(
            folder,
            f"is an adapter of the kind {kind}, which changes no weight of its base, so there is "
            "no fine-tune to pack or merge; use it with PEFT beside the model",
        )
    if kind not in MERGED:
        raise CheckpointError(
            folder, f"is an adapter of a kind other than LoRA, {reprlib.repr(kind)}; {MERGE_FIRST}"
        )
    if config.get("alora_invocation_tokens"):
        raise CheckpointError(
            folder,
            "is a LoRA adapter with alora_invocation_tokens, which works on some tokens only; no "
            "merged model does that, so use it with PEFT beside the model",
        )
    for option in _REFUSED:
        if config.get(option):
            raise CheckpointError(folder, f"is a LoRA adapter with {option}; {MERGE_FIRST}")
    start = config.get("init_lora_weights")
    if isinstance(start, str) and start.lower().startswith(_RESIDUAL):
        raise CheckpointError(
            folder,
            f"is a LoRA adapter that started with {start}, which changes the base; "
            f"convert it to plain LoRA, or {MERGE_FIRST}",
        )
    return config


def patterns_of(folder: Path, config: dict[str, Any]) -> Patterns:
    """Check the numbers of an adapter; returns its patterns."""
    patterns = config.get("alpha_pattern") or {}
    if not isinstance(patterns, dict):
        raise CheckpointError(folder, "has an alpha_pattern that is no object")
    for value in (config.get("lora_alpha", 8), *patterns.values()):
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not abs(value) <= MAX_ALPHA:
            raise CheckpointError(folder, f"has an alpha that is no number: {reprlib.repr(value)}")
    try:
        return Patterns(patterns)
    except ValueError as error:
        raise CheckpointError(folder, f"its alpha_pattern {error}") from None


def scaling(config: dict[str, Any], patterns: Patterns, module: str, rank: int) -> float:
    """Return by what the product of a layer is multiplied; ValueError for a pattern that fails."""
    pattern = patterns.first(module)
    alphas: dict[str, Any] = config.get("alpha_pattern") or {}
    alpha = config.get("lora_alpha", 8) if pattern is None else alphas[pattern]
    return float(alpha) / (math.sqrt(rank) if config.get("use_rslora") else rank)


def adapter_file(folder: Path) -> Path | None:
    """Return the weight file of an adapter folder; None for another folder."""
    for file in ("adapter_model.safetensors", "adapter_model.bin"):
        if (folder / CONFIG).is_file() and (folder / file).is_file():
            return folder / file
    return None


def adapters_in(folder: Path) -> list[str]:
    """Return the names of the folders right below one that hold adapters, as PEFT saves several."""
    return sorted(
        path.parent.name for path in folder.glob(f"*/{CONFIG}") if adapter_file(path.parent)
    )
