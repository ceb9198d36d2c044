"""One figure for the base and for each task, from the manifest; what they are told apart by."""

from __future__ import annotations

from blake3 import blake3

from taskstore.format.digests import model_digest
from taskstore.format.manifest import Manifest
from taskstore.format.names import MULTITASK, of_stem
from taskstore.store.catalog import rebuilt_tensors
from taskstore_serving.checks.servable import tier_of


def store_digest(manifest: Manifest) -> str:
    """The base's weights."""
    return model_digest({name: t.blake3 for name, t in manifest.tensors.items()})


def multitask_digest(manifest: Manifest) -> str:
    """The multi-task model as it is stored; masks mean nothing without the very same."""
    files = of_stem(MULTITASK, manifest.files)
    return model_digest({path: manifest.files[path].blake3 for path in files})


def task_digest(manifest: Manifest, task: str, residual: int) -> str:
    """A task's weights as they are served, and the tier that they come from."""
    tier = tier_of(manifest, task, residual)
    weights = {name: t.blake3 for name, t in rebuilt_tensors(manifest, task, tier).items()}
    return blake3(f"{tier} {model_digest(weights)}".encode()).hexdigest()
