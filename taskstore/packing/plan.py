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
    tasks = tuple(_started(task, first) for task in plan.tasks)
    return replace(plan, tasks=tasks)


def _started(task: TaskPlan, first: str) -> TaskPlan:
    return {
        name: TensorPlan(first, entry.info) if entry.kind == "shared" else entry
        for name, entry in task.items()
    }
