"""Digests that tell bases, multi-task models and tasks apart, from the manifest alone."""

from __future__ import annotations

from blake3 import blake3

from taskstore.format.digests import model_digest
from taskstore.format.manifest import Manifest
from taskstore.format.names import MULTITASK, of_stem
from taskstore.store.catalog import rebuilt_tensors
from taskstore_serving.checks.servable import tier_of


def shared_digests(manifest: Manifest) -> dict[str, str]:
    """Digest what all tasks share: the base's weights, and the multi-task model as it is stored."""
    files = of_stem(MULTITASK, manifest.files)
    return {
        "base": model_digest({name: t.blake3 for name, t in manifest.tensors.items()}),
        "multi-task model": model_digest({path: manifest.files[path].blake3 for path in files}),
    }


def task_digest(manifest: Manifest, task: str, residual: int) -> str:
    """Digest a task's weights as they are served, and their tier."""
    tier = tier_of(manifest, task, residual)
    weights = {name: t.blake3 for name, t in rebuilt_tensors(manifest, task, tier).items()}
    return blake3(f"{tier} {model_digest(weights)}".encode()).hexdigest()
