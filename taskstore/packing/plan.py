"""Decide which tier each shared tensor of each task starts with."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from taskstore.models import Checkpoint
from taskstore.models.compare import Plan, TaskPlan, TensorPlan, compare
from taskstore.models.family import Family


def make(family: Family, first: str, keep_private: bool | Collection[str] = True) -> Plan:
    """Compare a family and start each shared tensor with the tier `first`, the lowest.

    Raises what `compare` raises.
    """
    plan = compare(family, keep_private)
    tasks = tuple(_started(family.base, task, first) for task in plan.tasks)
    return replace(plan, tasks=tasks)


def _started(base: Checkpoint, task: TaskPlan, first: str) -> TaskPlan:
    """Make an exact tensor private where its dtype is not the base's: it cannot be coded then."""
    entries = dict(task)
    for name, entry in entries.items():
        if entry.kind == "shared":
            theirs, own = base.tensors[name].dtype, entry.info.dtype
            alone = first == "exact" and own != theirs
            kind, reason = ("private", f"{own}, {theirs} in the base") if alone else (first, "")
            entries[name] = TensorPlan(kind, entry.info, reason)
    return entries
