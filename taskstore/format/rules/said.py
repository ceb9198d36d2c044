"""Check what a manifest says for people: scores, fidelity, statistics, vectors, history."""

from __future__ import annotations

import math

from taskstore.errors import FormatError
from taskstore.format.manifest import MAX_HISTORY, Manifest, Task
from taskstore.format.names import has_control
from taskstore.format.rules.since import (
    VERSION_OF_CHANGES,
    VERSION_OF_COUNTS,
    VERSION_OF_FACTORED,
    VERSION_OF_FIDELITY,
    VERSION_OF_SCORES,
    VERSION_OF_TIERS,
    VERSION_OF_VECTORS,
)


def check_scores(manifest: Manifest, name: str, task: Task) -> None:
    """Refuse scores that the store's version does not have."""
    if task.scores is not None and manifest.version < VERSION_OF_SCORES:
        raise FormatError(f"task {name!r} has scores, in a store of version 1")
    by_tier = any(score.lower for score in (task.scores or {}).values())
    if by_tier and manifest.version < VERSION_OF_TIERS:
        raise FormatError(f"task {name!r} has scores of tiers, in an older store")
    counted = any(score.n for score in (task.scores or {}).values())
    if counted and manifest.version < VERSION_OF_COUNTS:
        raise FormatError(f"task {name!r} has scores with n, in an older store")


def check_fidelity(manifest: Manifest, name: str, task: Task) -> None:
    """Refuse fidelity of a tier that has none, or that is no sum of squares."""
    if task.fidelity is None:
        return
    if manifest.version < VERSION_OF_FIDELITY:
        raise FormatError(f"task {name!r} has fidelity, in a store of version {manifest.version}")
    if not task.fidelity or not task.fidelity.keys() <= {*task.all_tiers} - {"exact"}:
        of = ", ".join(task.fidelity) or "no tier"
        raise FormatError(f"task {name!r} has the fidelity of {of}")
    for tier, sums in task.fidelity.items():
        sizes = (sums.error, sums.weights, sums.vector)
        if not (all(0 <= x < math.inf for x in sizes) and math.isfinite(sums.product)):
            raise FormatError(f"task {name!r} has a fidelity of {tier} that is no sum of squares")


def check_statistics(manifest: Manifest, name: str, task: Task) -> None:
    """Refuse statistics of a task whose rest has no part of low rank that they could weigh."""
    if task.statistics is None:
        return
    if manifest.version < VERSION_OF_FACTORED:
        raise FormatError(f"task {name!r} has statistics, in a store of version {manifest.version}")
    if all(entry.codec != "factored" for entry in task.tensors.values()):
        raise FormatError(f"task {name!r} has statistics, and no rest that is factored")


def check_vectors(manifest: Manifest) -> None:
    """Refuse lengths and angles that are not those of the store's tasks."""
    found = manifest.vectors
    if found is None:
        return
    if manifest.version < VERSION_OF_VECTORS:
        raise FormatError(f"the store has vectors, and version {manifest.version}")
    if list(found.norms) != list(manifest.tasks) or not 0 < found.share <= 1:
        raise FormatError("the vectors of the store are not those of its tasks")
    cosines = [x for row in found.cosines for x in row if x is not None]
    rows = [len(row) for row in found.cosines]
    bounded = all(-1 <= x <= 1 for x in cosines) and all(x >= 0 for x in found.norms.values())
    if rows != list(range(len(found.norms))) or not bounded:
        raise FormatError("the lengths or cosines of the store's vectors are none")


def check_history(manifest: Manifest) -> None:
    """Refuse a history in an older store, an empty one, and one that is too long."""
    found = manifest.history
    if found is None:
        return
    if manifest.version < VERSION_OF_CHANGES:
        raise FormatError(f"the store has a history, and version {manifest.version}")
    if not 0 < len(found) <= MAX_HISTORY:
        raise FormatError(f"the history of the store has {len(found)} changes")
    if any(has_control(change.what + change.writer) for change in found):
        raise FormatError("the history of the store holds a control character")
