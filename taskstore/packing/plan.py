"""Decide which tier each shared tensor of each task starts with."""

from __future__ import annotations

from dataclasses import replace

from taskstore.format.manifest import TIERS
from taskstore.models.compare import Plan, TaskPlan, TensorPlan, compare
from taskstore.models.family import Family
from taskstore.packing.options import PackOptions


def make(family: Family, options: PackOptions) -> Plan:
    """Compare a family and start each shared tensor with the lowest tier of its task.

    Raises what `compare` raises.
    """
    any_dtype = options.tier_names == ("exact",)
    return with_tiers(compare(family, options.keep_private, any_dtype=any_dtype), family, options)


def with_tiers(plan: Plan, family: Family, options: PackOptions) -> Plan:
    """Return the plan with each shared tensor started with the lowest tier of `options`.

    Where a multi-task model is there, tensors that it does not have are private to masked tasks.
    """
    masked = family.multitask.codecs if family.multitask else None

    def started(task: TaskPlan, first: str) -> TaskPlan:
        return {
            name: entry
            if entry.kind not in ("shared", *TIERS)
            else TensorPlan("private", entry.info, "not in the store's multi-task model")
            if masked is not None and first == "mask" and name not in masked
            else TensorPlan(first, entry.info)
            for name, entry in task.items()
        }

    firsts = [options.tiers_of(task.name)[0] for task in family.tasks]
    return replace(plan, tasks=tuple(map(started, plan.tasks, firsts)))
