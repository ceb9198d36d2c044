"""Tells whether vLLM's model reads a setting of a config that the model's own class does not know.

Trainers and old versions leave notes in config.json. A setting that the class declares may change
what is computed; another one does only where vLLM's source reads it by its name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

_SHARED = ("config", "transformers_utils", "model_executor/layers")
_MODELS = "model_executor/models"
_IMPORT = re.compile(r"^\s*from (?:\.|vllm\.model_executor\.models\.)(\w+) import", re.MULTILINE)


def counts(setting: str, config: Mapping[str, Any]) -> bool:
    """Whether a setting, by the last part of its name, may change what a model computes.

    True where it cannot be told: for a class that transformers does not have, or without vLLM.
    """
    known = declared(str(config.get("model_type")))
    return known is None or setting in known or _read(setting, tuple(_architectures(config)))


def completed(settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """The settings with every default of their class; None where transformers has no such class."""
    kind = _class(str(settings.get("model_type")))
    if kind is None:
        return None
    try:
        found: dict[str, Any] = kind.from_dict(dict(settings)).to_dict()
    except Exception:  # each class checks its values in its own way
        return None
    return found


@cache
def declared(model_type: str) -> frozenset[str] | None:
    """Names of the settings that a class has, its parts' too; None where there is no class."""
    kind = _class(model_type)
    try:
        return kind and frozenset(_names(kind().to_dict()))
    except Exception:  # a class without defaults for all
        return None


def _names(settings: Mapping[str, Any]) -> Iterator[str]:
    for name, value in settings.items():
        yield name
        if isinstance(value, Mapping):
            yield from _names(value)


def _class(model_type: str) -> Any:
    from transformers import CONFIG_MAPPING

    there = model_type in CONFIG_MAPPING
    return (
        CONFIG_MAPPING[model_type] if there else None
    )  # a lazy mapping, whose `get` finds nothing


def _architectures(config: Mapping[str, Any]) -> Sequence[str]:
    found = config.get("architectures")
    return found if isinstance(found, list) and all(isinstance(a, str) for a in found) else ()


def _read(setting: str, architectures: tuple[str, ...]) -> bool:
    text = _source(architectures)
    return not text or re.search(rf"""[."']{re.escape(setting)}\b""", text) is not None


@cache
def _source(architectures: tuple[str, ...]) -> str:
    """vLLM's source as far as it concerns these architectures; "" without vLLM."""
    found = find_spec("vllm")
    if found is None or not found.submodule_search_locations:
        return ""
    root = Path(found.submodule_search_locations[0])
    shared = [path for part in _SHARED for path in sorted((root / part).rglob("*.py"))]
    apart = root / "transformers_utils" / "configs"  # classes of single models
    files = [path for path in shared if apart not in path.parents]
    files += _modules(root / _MODELS, architectures) or sorted((root / _MODELS).rglob("*.py"))
    return "\n".join(path.read_text(errors="replace") for path in files)


def _modules(models: Path, architectures: tuple[str, ...]) -> list[Path]:
    """The files of these architectures and what they import of their neighbours."""
    registry = (models / "registry.py").read_text(errors="replace")
    wanted = [
        module
        for one in architectures
        for module in re.findall(rf'"{re.escape(one)}":\s*\(\s*"(\w+)"', registry)
    ]
    found: dict[str, Path] = {}
    while wanted:
        path = models / f"{(name := wanted.pop())}.py"
        if name not in found and path.is_file():
            found[name] = path
            wanted += _IMPORT.findall(path.read_text(errors="replace"))
    return list(found.values())
