"""Refuses a task whose config computes something else than the base's: an engine has one config.

Configs are compared as transformers completes them, since a file leaves out defaults, and which
depends on the version that wrote it. A setting that the model's class does not have counts where
vLLM reads it (`reads`): trainers leave notes. What never counts is in taskstore/models/config.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from taskstore.errors import SwapError
from taskstore.locations.scratch import scratch
from taskstore.models.config import CONFIG, differing, read_settings
from taskstore.store import Store
from taskstore_serving.checks.reads import completed, counts


def check_config(task: str, own: Mapping[str, Any], base: Mapping[str, Any]) -> None:
    """Raise SwapError, with the setting's name, where two configs compute differently."""
    for name, mine, theirs in differing(own, base):
        if not (mine or theirs) or not counts(name.rpartition(".")[2], base):
            continue
        raise SwapError(
            f"task {task!r} cannot be served with the others: its config says {name}={mine!r}, "
            f"the base's {theirs!r}; leave it out"
        )


def check_written(store: Store, task: str) -> None:
    """Check both files before vLLM is loaded; of what no class completes, what both give.

    Raises SwapError.
    """
    own_file = store.manifest.tasks[task].assets.get(CONFIG)
    if own_file is not None and own_file == store.manifest.base.assets.get(CONFIG):
        return  # one file, as nearly always: nothing to write out and read
    with scratch(store.path, small=True) as folder:
        own, base = (_written(store, t, folder / str(t is None)) for t in (task, None))
    if not any(differing(own, base)):
        return
    whole = completed(own), completed(base)
    if whole[0] and whole[1]:
        check_config(task, whole[0], whole[1])
    else:
        check_config(task, _common(own, base), _common(base, own))


def _common(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of one config that the other gives too."""
    found = {}
    for name in one.keys() & other.keys():
        mine, theirs = one[name], other[name]
        both = isinstance(mine, Mapping) and isinstance(theirs, Mapping)
        found[name] = _common(mine, theirs) if both else mine
    return found


def _written(store: Store, task: str | None, folder: Path) -> dict[str, Any]:
    return read_settings(store.write_assets(task, folder) / CONFIG)


def completed_config(folder: Path, model_config: Any) -> dict[str, Any]:
    """A folder's config with every default; empty where the folder has none."""
    from vllm.transformers_utils.config import get_config

    if not (folder / CONFIG).exists():
        return {}
    found: dict[str, Any] = get_config(
        str(folder), model_config.trust_remote_code, config_format=model_config.config_format
    ).to_dict()
    return found
