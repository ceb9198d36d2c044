"""Chooses the parent of each task that is kept bit for bit: the base, or another task."""

from __future__ import annotations

import numpy as np

from taskstore.executors import Executor
from taskstore.models.compare import Plan
from taskstore.models.family import Family
from taskstore.packing.options import PackOptions
from taskstore.packing.parents import distances, tree

GAIN, LEAST = 0.02, 4096  # share and bytes that a parent must save of a task; samples are not all


def choose(family: Family, plan: Plan, options: PackOptions, executor: Executor) -> dict[str, str]:
    """Return task -> parent; a task that is not in it is coded against the base.

    Where masks are kept, or tasks have tiers of their own, just those that are given. Raises
    NotFinite as packing does.
    """
    tasks = [task.name for task in family.tasks]
    given = {name: parent for name, parent in options.parents.items() if name in tasks}
    measured = options.parent == "auto" and "mask" not in options.tier_names
    measured &= not options.own_tiers
    if "exact" not in options.tier_names or not measured or len(tasks) < 2:
        return given
    cost_TT = distances.measure(family, plan, options, executor)
    cost_TT[0] = np.maximum(0, cost_TT[0] * (1 - GAIN) - LEAST)
    node = {name: t for t, name in enumerate(tasks, 1)}
    fixed = {node[name]: node[parent] for name, parent in given.items()}
    found = tree.grow(cost_TT, options.depth, fixed).tolist()
    return {name: tasks[found[t] - 1] for name, t in node.items() if found[t]}
