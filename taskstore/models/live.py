"""Build a task as a live transformers model: its class from the config, its weights streamed.

transformers itself builds the module and puts the tensors in, so fused experts, tied heads and
buffers that no checkpoint holds are its business. Code from a store is never run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from taskstore.errors import CheckpointError, InputError, MissingExtra

CONFIG = "config.json"


def model_class(
    folder: Path, label: str, way_out: str = "use state_dict and a module of your own"
) -> tuple[Any, Any]:
    """Return (class, config) of the config in `folder`; `way_out` ends the error if none.

    Raises MissingExtra without transformers, InputError where the class is not one of its own.
    """
    try:
        import transformers
    except ImportError:
        raise MissingExtra("load_model", "transformers", "hf") from None
    if not (folder / CONFIG).exists():
        raise InputError(f"{label} has no {CONFIG}; {way_out}")
    try:
        config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except (ValueError, OSError, KeyError, TypeError) as error:
        why = str(error).strip().splitlines()[0]
        raise InputError(f"transformers cannot read the {CONFIG} of {label}: {why}") from None
    names = config.architectures or ["AutoModel"]
    cls = getattr(transformers, names[0], None)
    if cls is None:
        raise InputError(
            f"{label} is a {names[0]}, which transformers {transformers.__version__} does not "
            f"have; {way_out}"
        )
    return cls, config


def build(
    cls: Any,
    config: Any,
    folder: Path,
    state: Mapping[str, torch.Tensor],
    device: torch.device,
    dtype: torch.dtype | None,
    options: Mapping[str, Any],
) -> Any:
    """Build the model in evaluation mode; `dtype` None keeps every tensor in the dtype that it has.

    Raises CheckpointError where the class wants tensors that `state` does not have.
    """
    where: dict[str, Any] = {}
    if device.type != "cpu":
        where["device_map"] = {"": device}
    try:
        model, info = cls.from_pretrained(
            None,
            config=config,
            state_dict=dict(state),
            dtype=dtype or _main_dtype(state),
            output_loading_info=True,
            **where,
            **options,
        )
    except ValueError as error:
        if "accelerate" in str(error):
            raise MissingExtra("load_model on a device", "accelerate", "hf") from None
        raise
    for kind in ("missing_keys", "mismatched_keys"):
        if info[kind]:
            first = sorted(map(str, info[kind]))[:3]
            raise CheckpointError(cls.__name__, f"{kind.replace('_', ' ')}: {', '.join(first)}")
    if dtype is None:
        _restore_dtypes(model, state)
    _generation_config(model, folder)
    return model


def _main_dtype(state: Mapping[str, torch.Tensor]) -> torch.dtype:
    """Return the float dtype of most elements; the config may name another."""
    found: Counter[torch.dtype] = Counter()
    for tensor in state.values():
        if tensor.is_floating_point():
            found[tensor.dtype] += tensor.numel()
    return found.most_common(1)[0][0] if found else torch.float32


def _restore_dtypes(model: torch.nn.Module, state: Mapping[str, torch.Tensor]) -> None:
    """Put tensors back as they were stored that were cast to the dtype of the others."""
    for name, live in model.state_dict(keep_vars=True).items():
        stored = state.get(name)
        if stored is not None and live.dtype != stored.dtype:
            live.data = stored


def _generation_config(model: Any, folder: Path) -> None:
    if (folder / "generation_config.json").exists() and model.can_generate():
        from transformers import GenerationConfig

        model.generation_config = GenerationConfig.from_pretrained(folder)
