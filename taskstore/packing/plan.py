"""Decide which tier each shared tensor of each task starts with; which tasks keep an adapter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from taskstore.errors import FormatError
from taskstore.format.dtypes import MASKED
from taskstore.format.manifest import TIERS
from taskstore.format.members import Factor
from taskstore.format.rules.kept_adapters import check_parts
from taskstore.models.checkpoint import TensorInfo
from taskstore.models.compare import Plan, TaskPlan, TensorPlan, compare
from taskstore.models.family import Family
from taskstore.models.readers.lora import LoraReader
from taskstore.packing.options import PackOptions

PENDING = "0" * 64  # of a checksum that comes later
Adapters = Mapping[str, LoraReader]  # by task


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


def with_codecs(family: Family, plan: Plan, codecs: Mapping[str, Mapping[str, str]]) -> Plan:
    """Return the plan with these codecs of exact tensors, by task, and no others."""
    plans = [
        {name: replace(e, codec=codecs.get(task.name, {}).get(name)) for name, e in planned.items()}
        for task, planned in zip(family.tasks, plan.tasks, strict=True)
    ]
    return replace(plan, tasks=tuple(plans))


def keep_adapters(family: Family, plan: Plan, options: PackOptions) -> tuple[Plan, Adapters]:
    """Plan the adapters of a family: of tasks that are kept bit for bit, beside which are no masks.

    A task that a parent is named for, or that is one, is coded like a full fine-tune.
    """
    named = {*options.parents, *options.parents.values()}
    tasks, found = list(plan.tasks), dict[str, LoraReader]()
    masked = "mask" in options.tier_names
    for t, task in enumerate(family.tasks):
        reader = task.reader
        exact = options.tiers_of(task.name) == ("exact",) and not masked
        if not exact or not isinstance(reader, LoraReader):
            continue
        if task.name not in named and (made := _planned(reader, tasks[t], family.base.tensors)):
            tasks[t], found[task.name] = made, reader
    return replace(plan, tasks=tuple(tasks)), found


def _planned(reader: LoraReader, plan: TaskPlan, base: Mapping[str, TensorInfo]) -> TaskPlan | None:
    """Return the plan of a task that keeps its adapter; None where the format cannot say how."""
    factors = {
        name: Factor(dtype=info.dtype, shape=list(info.shape), blake3=PENDING)
        for name, info in reader.factors.tensors.items()
    }
    entries = dict[str, TensorPlan]()
    for name, entry in plan.items():
        made = reader.made(name)
        if entry.kind in ("alias", "base"):
            entries[name] = entry
        elif made is None:
            if base.get(name) != entry.info:
                return None
            entries[name] = TensorPlan("base", entry.info)
        else:
            try:
                check_parts(made, entry.info.dtype, list(entry.info.shape), factors)
            except FormatError:
                return None
            entries[name] = TensorPlan("adapted", entry.info, made=made)
    return entries


def like_base(family: Family, plan: Plan, name: str) -> list[int]:
    """Return the tasks whose tensor an adapter makes, where it is one like the base's."""
    if name in plan.aliases:
        return []
    info = family.base.tensors.get(name)
    return [t for t in plan.tasks_of(name, "adapted") if plan.tasks[t][name].info == info]


def without(family: Family, plan: Plan, kept: Adapters) -> tuple[Family, Plan]:
    """Return a family without the tasks that keep an adapter, no one's parents."""
    left = [t for t, task in enumerate(family.tasks) if task.name not in kept]
    tasks, plans = tuple(family.tasks[t] for t in left), tuple(plan.tasks[t] for t in left)
    return replace(family, tasks=tasks), replace(plan, tasks=plans)


def private_start(family: Family, plan: Plan, t: int, name: str) -> int | None:
    """Return the first element of a task's tensor that is not shared; None where all of it is."""
    entry, base = plan.tasks[t][name], family.base.tensors
    if entry.kind in ("private", "adapted") and t not in like_base(family, plan, name):
        return 0
    grown = entry.kind in TIERS and entry.info.numel > base[name].numel
    return base[name].numel if grown else None


def shared_tensors(family: Family, plan: Plan) -> list[tuple[TensorInfo, int]]:
    """List the base's float tensors, and how many tasks share each."""
    every = family.base.tensors.items()
    floats = [(name, info) for name, info in every if info.dtype in MASKED]
    return [(info, len(plan.tasks_of(name, *TIERS, "adapted"))) for name, info in floats]
