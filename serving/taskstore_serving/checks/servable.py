"""Tells from the manifest alone which tasks one engine can serve, and with which tier."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Literal

from taskstore.errors import SwapError
from taskstore.format.manifest import Manifest
from taskstore.store.catalog import Rebuilt, rebuilt_tensors, resolved

Tier = Literal["mask", "rest"]
_WIDER = {("BF16", "F32"), ("F16", "F32")}  # of the base, of a task: no value is rounded
_CONSTANT = re.compile(  # buffers that old files hold; modules compute them, and loaders skip them
    r"(^|\.)(rotary_emb\.(inv_freq|cos_cached|sin_cached)|h\.\d+\.attn\.(masked_)?bias)$"
)


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


def served_as(manifest: Manifest, task: str, name: str) -> str:
    """The task's tensor that a tensor of the base is loaded from; "" where the base's stays.

    A task that did not save a tie has the tensor under its other name alone.
    """
    own, tied = manifest.tasks[task].tensors, manifest.tensors[name].alias
    return next((one for one in (name, tied) if one and one in own), "")


def unservable(manifest: Manifest, task: str, residual: int = 0) -> str:
    """The first tensor that cannot be swapped, and why; "" where all can.

    No reason are constant buffers, a tie that only one of the two saved, and a model saved in fp32
    whose base has 16 bits: an engine in the base's dtype loads the same weights from it.
    """
    tier = tier_of(manifest, task, residual)
    base, tensors = rebuilt_tensors(manifest, None), rebuilt_tensors(manifest, task, tier)
    for name in sorted({*base, *tensors}):
        if _CONSTANT.search(name):
            continue
        if name not in base:
            if manifest.tasks[task].tensors[name].kind == "alias":
                continue
            return f"{name!r} is not in the base"
        mine = served_as(manifest, task, name)
        if not mine:
            return f"{name!r} is only in the base"
        if problem := _unlike(base[name], tensors[mine]):
            return f"{name!r} {problem}"
        of, entry = resolved(manifest.tasks[task], mine)
        if entry.kind == "private":
            return f"{name!r} is its own ({entry.reason})"
        if entry.kind == "adapted":
            return f"{name!r} is made by an adapter, which has neither mask nor rest"
        lowest = (*manifest.tasks[task].tiers_of(of), "")[0]
        if lowest == "rest" and tier == "mask":
            return f"{name!r} has no mask, only a rest (--tier rest serves it)"
        tied = manifest.tensors[name].alias or name
        if tier == "rest" and of != tied and tensors[mine].blake3 != base[name].blake3:
            return f"{name!r} is {of!r} in it, and {tied!r} in the base"
        if lowest == "exact":
            every = all("exact" in one.all_tiers for one in manifest.tasks.values())
            way = "retier`" if every else "replace --tiers rest` with its fine-tune"
            return f"{name!r} has neither mask nor rest; `taskstore {way} adds one"
    return ""


def _unlike(base: Rebuilt, mine: Rebuilt) -> str:
    if mine.shape != base.shape:
        return f"has the shape {list(mine.shape)}, and {list(base.shape)} in the base"
    if mine.dtype != base.dtype and (base.dtype, mine.dtype) not in _WIDER:
        return f"is {mine.dtype}, and {base.dtype} in the base"
    return ""
