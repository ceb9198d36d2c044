"""Decide which tier each shared tensor of each task starts with."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from taskstore.models.compare import Plan, TaskPlan, TensorPlan, compare
from taskstore.models.family import Family


def make(family: Family, first: str, keep_private: bool | Collection[str] = True) -> Plan:
    """Compare a family and start each shared tensor with the tier `first`, the lowest.

    Raises what `compare` raises.
    """
    plan = compare(family, keep_private, any_dtype=first == "exact")
    masked = family.multitask.codecs if family.multitask and first == "mask" else None
    tasks = tuple(_started(task, first, masked) for task in plan.tasks)
    return replace(plan, tasks=tasks)


def _started(task: TaskPlan, first: str, masked: Collection[str] | None) -> TaskPlan:
    """Start shared tensors; `masked`: those that a multi-task model has which is there."""

    def started(name: str, entry: TensorPlan) -> TensorPlan:
        if entry.kind != "shared":
            return entry
        if masked is not None and name not in masked:
            return TensorPlan("private", entry.info, "not in the store's multi-task model")
        return TensorPlan(first, entry.info)

    return {name: started(name, entry) for name, entry in task.items()}
