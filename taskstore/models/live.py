"""Build a task as a live transformers model: its class from the config, its weights streamed.

transformers itself builds the module and puts the tensors in, so fused experts, tied heads and
buffers that no checkpoint holds are its business. Code from a store or from a hub is run only where
it is trusted by name.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from taskstore import extras
from taskstore.errors import CheckpointError, InputError
from taskstore.format.names import plain
from taskstore.models import untrusted_config
from taskstore.models.spelling.prefixes import unwrapped
from taskstore.models.untrusted_config import CONFIG


def model_class(
    folder: Path,
    label: str,
    way_out: str = "use state_dict and a module of your own",
    *,
    trust_remote_code: bool = False,
) -> tuple[Any, Any]:
    """Return (class, config) of the config in `folder`; `way_out` ends the error if none.

    Raises MissingExtra without transformers, InputError where the class is not one of its own, or,
    with `trust_remote_code`, of the folder's.
    """
    transformers = extras.need("load_model", "transformers")
    if not (folder / CONFIG).exists():
        raise InputError(f"{label} has no {CONFIG}; {way_out}")
    if not trust_remote_code:
        _check_own(untrusted_config.check(folder, label), label)
    with nullcontext() if trust_remote_code else untrusted_config.offline():
        try:
            config = transformers.AutoConfig.from_pretrained(
                folder, trust_remote_code=trust_remote_code
            )
        except Exception as error:  # whatever a config leads to
            why = one_line(error)
            raise InputError(f"transformers cannot read the {CONFIG} of {label}: {why}") from None
    cls = _remote_class(folder, label, config) if trust_remote_code else None
    return cls or _own_class(config, label, way_out), config


def _check_own(settings: Mapping[str, Any], label: str) -> None:
    """Raise InputError for a model with code of its own, unless transformers has its kind too."""
    import transformers

    code = settings.get("auto_map")
    if not isinstance(code, dict) or not code:
        return
    kinds, names = transformers.CONFIG_MAPPING, settings.get("architectures")
    name = names[0] if isinstance(names, list) and names else settings.get("model_type")
    known = isinstance(name, str) and hasattr(transformers, name)
    kind = settings.get("model_type")
    if isinstance(kind, str) and kind in kinds and (known or not names):
        return
    places = sorted({_place(one) for value in code.values() for one in _references(value)})
    raise InputError(
        f"{label} is a {plain(str(name))[:80]}, which has code of its own "
        f"({plain(', '.join(places[:3]))}); "
        "read that, then load it with trust_remote_code=True"
    )


def _references(value: Any) -> list[str]:
    """Return what an entry of auto_map names; a tokenizer has two, or one and None."""
    return [one for one in (value if isinstance(value, list) else [value]) if isinstance(one, str)]


def _place(reference: str) -> str:
    """Say where code lies: a file of the store, or one of a repository."""
    repository, _, name = reference.rpartition("--")
    file = f"{name.split('.')[0]}.py"[:80]
    return f"{file} of {repository[:80]} on the hub" if repository else file


def _own_class(config: Any, label: str, way_out: str) -> Any:
    """Return the class that the config names, which must be a model of transformers itself."""
    import transformers

    names = config.architectures or []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InputError(f"{label} has architectures that are no names; {way_out}")
    if not names:
        cls: Any = transformers.MODEL_MAPPING.get(type(config), None)
        cls = cls[0] if isinstance(cls, tuple) else cls
    else:
        cls = getattr(transformers, names[0], None)
    is_model = isinstance(cls, type) and issubclass(cls, transformers.PreTrainedModel)
    if not is_model or not cls.__module__.startswith("transformers.models."):
        name = plain(names[0])[:80] if names else type(config).__name__
        raise InputError(
            f"{label} is a {name}, which transformers {transformers.__version__} does not "
            f"have; {way_out}"
        )
    return cls


def _remote_class(folder: Path, label: str, config: Any) -> Any:
    """Return the class that the folder's own code has for the config; None where it has none."""
    from transformers.dynamic_module_utils import get_class_from_dynamic_module

    found = getattr(config, "auto_map", None) or {}
    wanted = (config.architectures or [""])[0]
    references = [found[key] for key in found if key.startswith("AutoModel")]
    named = [ref for ref in references if ref.endswith(f".{wanted}")] or references
    try:
        return get_class_from_dynamic_module(named[0], folder) if named else None
    except Exception as error:  # the code's own
        raise InputError(f"the code of {label} cannot be loaded: {one_line(error)}") from None


def one_line(error: BaseException) -> str:
    """Return the first line of what a library says."""
    return plain((str(error).strip() or type(error).__name__).splitlines()[0][:300])


def _unwrapped(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return tensors by the names of the model that a training wrapper held, if one did."""
    found = {name: unwrapped(name) for name in state}
    words = [gone for _, gone in found.values()]
    wrapped = all(words) or any(word[0] == "_" for gone in words for word in gone)
    plain = {new: state[name] for name, (new, _) in found.items()}
    return plain if wrapped and len(plain) == len(state) else dict(state)


def build(
    cls: Any,
    config: Any,
    folder: Path,
    state: Mapping[str, torch.Tensor],
    device: torch.device,
    dtype: torch.dtype | str | None,
    options: Mapping[str, Any],
    name: str,
    *,
    trust_remote_code: bool = False,
) -> Any:
    """Build the model in evaluation mode, under a name of its own.

    `dtype` None is "auto", as from_pretrained has it; "stored" keeps each tensor's own.

    Raises CheckpointError where the class wants tensors that `state` does not have, InputError
    where it cannot be built. No hub is asked, unless code from there is trusted.
    """
    where: dict[str, Any] = {}
    if device.type != "cpu":
        where["device_map"] = {"": device}
    with nullcontext() if trust_remote_code else untrusted_config.offline():
        try:
            model, info = cls.from_pretrained(
                None,
                config=config,
                state_dict=_unwrapped(state),
                dtype=_main_dtype(state) if dtype == "stored" else dtype or "auto",
                output_loading_info=True,
                **where,
                **options,
            )
        except (torch.OutOfMemoryError, MemoryError):
            raise
        except Exception as error:  # whatever a config leads to
            if isinstance(error, ValueError) and "accelerate" in str(error):
                raise extras.missing("load_model on a device", "accelerate") from None
            raise InputError(
                f"transformers cannot build {cls.__name__}: {one_line(error)}"
            ) from error
        for kind in ("missing_keys", "mismatched_keys"):
            if info[kind]:
                first = sorted(map(str, info[kind]))[:3]
                raise CheckpointError(cls.__name__, f"{kind.replace('_', ' ')}: {', '.join(first)}")
        if dtype == "stored":
            _restore_dtypes(model, state)
        model.name_or_path = model.config._name_or_path = name
        _generation_config(model, folder)
    return model


def tokenizer(
    folder: Path,
    label: str,
    name: str,
    options: Mapping[str, Any],
    *,
    trust_remote_code: bool = False,
) -> Any:
    """Return the tokenizer in a folder, under a name of its own.

    Raises InputError where it cannot be built.
    """
    import transformers

    with nullcontext() if trust_remote_code else untrusted_config.offline():
        try:
            found = transformers.AutoTokenizer.from_pretrained(
                folder, trust_remote_code=trust_remote_code, **options
            )
        except Exception as error:  # whatever its files lead to
            raise InputError(
                f"transformers cannot build the tokenizer of {label}: {one_line(error)}"
            ) from error
    found.name_or_path = name
    return found


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

        try:
            model.generation_config = GenerationConfig.from_pretrained(folder)
        except Exception as error:  # whatever a file leads to
            raise InputError(f"its generation_config.json: {one_line(error)}") from None
