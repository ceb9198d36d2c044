"""Digests that tell bases, multi-task models and tasks apart, from the manifest alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from blake3 import blake3

from taskstore.errors import SwapError, UnknownWeights
from taskstore.format.digests import model_digest
from taskstore.format.manifest import Manifest
from taskstore.format.names import MULTITASK, of_stem
from taskstore.store import Store
from taskstore.store.catalog import label_of, rebuilt_tensors
from taskstore.swap.states import State
from taskstore_serving.checks.kept import kept
from taskstore_serving.checks.servable import tier_of


def shared_digests(manifest: Manifest) -> dict[str, str]:
    """Digest what all tasks share: the base's weights, and the multi-task model as it is stored."""
    files = of_stem(MULTITASK, manifest.files)
    return {
        "base": model_digest({name: t.blake3 for name, t in manifest.tensors.items()}),
        "multi-task model": model_digest({path: manifest.files[path].blake3 for path in files}),
    }


def check_shared(store: Store, loaded: Mapping[str, str], task: str) -> None:
    """Raise SwapError where base or multi-task model are not those that an engine loaded."""
    for what, now in shared_digests(store.manifest).items():
        if now != loaded[what]:
            raise SwapError(
                f"task {task!r} cannot be added to a running engine: the {what} of {store.where} "
                "is no longer the one that was loaded; start the engine again"
            )


def check_live(found: Mapping[str, str], expected: Mapping[str, str], task: State) -> None:
    """Raise UnknownWeights where live tensors are not those of a task, or of the base (None)."""
    wrong = [name for name in expected if found[name] != expected[name]]
    if wrong:
        raise UnknownWeights(
            f"{len(wrong)} of {len(expected)} tensors are not those of {label_of(task)}, "
            f"{wrong[0]!r} for one; start the engine again"
        )


def task_digest(manifest: Manifest, task: str, residual: int) -> str:
    """Digest a task's weights as they are served, and their tier."""
    tier = tier_of(manifest, task, residual)
    weights = {name: t.blake3 for name, t in rebuilt_tensors(manifest, task, tier).items()}
    return blake3(f"{tier} {model_digest(weights)}".encode()).hexdigest()


def facts(manifest: Manifest, task: str, residual: int) -> dict[str, Any]:
    """What a worker says of a task that it serves."""
    tier = tier_of(manifest, task, residual)
    digest = task_digest(manifest, task, residual)
    return {"digest": digest, "tier": tier, **kept(manifest, task, tier)}
