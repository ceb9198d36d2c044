"""Old and new names of one architecture, as transformers' own tables of conversions know them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any


def converted(names: Iterable[str], config: Mapping[str, Any]) -> dict[str, str]:
    """Return name -> the name that transformers gives it when it loads such a model.

    Empty without transformers, or where it knows no other names.
    Nothing of the model is loaded or run.
    """
    try:
        from transformers.conversion_mapping import get_checkpoint_conversion_mapping as table
        from transformers.core_model_loading import WeightRenaming
    except ImportError:
        return {}
    inner = config.get("text_config")
    kinds = [config.get("model_type"), *(config.get("architectures") or ())]
    kinds += [inner.get("model_type")] if isinstance(inner, dict) else []
    kinds += [f"{kind.split('For')[0]}Model" for kind in kinds[1:] if isinstance(kind, str)]
    steps = [
        step
        for kind in [*dict.fromkeys(k for k in kinds if isinstance(k, str)), "legacy"]
        for step in table(kind) or ()
        if isinstance(step, WeightRenaming)
    ]
    found = {}
    for name in names:
        now = name
        for step in steps:
            now = step.rename_source_key(now)[0]
        if now != name:
            found[name] = now
    return found
