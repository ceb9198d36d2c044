"""Say what a store was packed with, so that it can be packed again."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from taskstore.errors import InputError
from taskstore.format import manifest as manifests
from taskstore.merging.methods import registry
from taskstore.packing.options import PackOptions
from taskstore.store import Store


def as_packed(store: Store, jobs: int) -> PackOptions:
    """Return what a store of exact tasks was packed with, as far as it matters."""
    manifest = store.manifest
    tasks = manifest.tasks
    method, merge_options = manifest.merge.method, manifest.merge.options
    try:
        registry.check(method, merge_options, packing=True)
    except InputError:  # of a newer taskstore, or of none
        method, merge_options = "lsq", {}
    lambdas = {name: task.lam for name, task in tasks.items()}
    bits = {name: task.bits for name, task in tasks.items() if task.bits is not None}
    tiers = list({tier: None for name in tasks for tier in store.tiers(name)})
    masked: dict[str, Any] = {
        "method": method,
        "merge_options": merge_options,
        "lam": _common(lambdas.values()),
        "lambdas": lambdas,
    }
    return PackOptions(
        tiers=",".join(tiers),
        own_tiers={} if "mask" in tiers else {n: ",".join(store.tiers(n)) for n in tasks},
        level="archive" if any(task.codecs for task in tasks.values()) else "speed",
        residual=_common(bits.values()),
        residuals=bits,
        base="embed" if manifest.base.carried else "reference",
        jobs=jobs,
        overwrite=True,
        chunk=manifest.chunk,
        **(masked if "mask" in tiers else {}),
    )


def scores_of(
    store: Store, options: PackOptions, tasks: Iterable[str]
) -> dict[str, dict[str, manifests.Score]]:
    """Return the recorded scores that stay true: of exact tensors, not of the tiers below them."""
    if "exact" not in options.tier_names:
        return {}
    return {
        name: {label: msgspec.structs.replace(s, lower=None) for label, s in task.scores.items()}
        for name in tasks
        if (task := store.manifest.tasks[name]).scores
    }


def _common(values: Iterable[float]) -> float | None:
    """Return what all tasks have, so that a new one gets it too; None where they differ."""
    found = set(values)
    return found.pop() if len(found) == 1 else None
