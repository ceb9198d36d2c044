"""Tells from the manifest alone which tasks one engine can serve, and with which tier."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from taskstore.errors import SwapError
from taskstore.format.manifest import Manifest
from taskstore.store.catalog import rebuilt_tensors, resolved

Tier = Literal["mask", "rest"]


def tier_of(manifest: Manifest, task: str, residual: int) -> Tier:
    """The tier that a task is served with: `rest` where it is asked for and the task has it."""
    return "rest" if residual and "rest" in manifest.tasks[task].all_tiers else "mask"


def check_servable(manifest: Manifest, tasks: Iterable[str], residual: int = 0) -> None:
    """Raise SwapError for a tensor of a task that cannot be swapped in place, with its name."""
    for task in tasks:
        if problem := unservable(manifest, task, residual):
            raise SwapError(
                f"task {task!r} cannot be served with the others: its tensor {problem}; "
                "leave it out"
            )


def unservable(manifest: Manifest, task: str, residual: int = 0) -> str:
    """The first tensor that cannot be swapped, and why; "" where all can."""
    entries, tier = manifest.tasks[task].tensors, tier_of(manifest, task, residual)
    base, tensors = rebuilt_tensors(manifest, None), rebuilt_tensors(manifest, task, tier)
    for name in sorted({*base, *tensors}):
        if name not in tensors or name not in base:
            return (
                f"{name!r} is only in the base" if name in base else f"{name!r} is not in the base"
            )
        if (tensors[name].dtype, tensors[name].shape) != (base[name].dtype, base[name].shape):
            return f"{name!r} has another dtype or shape than the base's"
        of, entry = resolved(manifest.tasks[task], name)
        if entry.kind == "private":
            return f"{name!r} is its own ({entries[name].reason})"
        lowest = (*manifest.tasks[task].tiers_of(of), "")[0]
        if lowest == "rest" and tier == "mask":
            return f"{name!r} has no mask, only a rest (residual=1 serves it)"
        tied = manifest.tensors[name].alias or name
        if tier == "rest" and of != tied and tensors[name] != base[name]:
            return f"{name!r} is {of!r} in it, and {tied!r} in the base"
        if lowest == "exact":
            return f"{name!r} has neither mask nor rest"
    return ""
