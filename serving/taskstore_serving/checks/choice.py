"""Chooses which tasks of a store are served, and under which names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from tempfile import TemporaryDirectory
from typing import Any

from taskstore.errors import InputError, SwapError
from taskstore.format.manifest import Manifest
from taskstore.models.config import CONFIG, TORCH, read_settings
from taskstore.store import Store
from taskstore_serving.checks.command_line import option_value
from taskstore_serving.checks.configs import check_written
from taskstore_serving.checks.servable import Tier, check_servable, tier_of, unservable

_TURNED = {"gpt2"}  # models whose matrices lie turned in the checkpoint


@dataclass(frozen=True)
class Choice:
    """What is served. `tiers`: task -> its tier; `left_out`: task -> why it is not served."""

    tiers: Mapping[str, Tier]
    left_out: Mapping[str, str]


def choose(
    store: Store, tasks: Sequence[str], *, residual: int, default: str, skip: bool
) -> Choice:
    """Choose those of `tasks` (none: all) that one engine can serve.

    Raises UnknownTask, SwapError for a task that it cannot serve unless `skip` says to leave such
    out, InputError where none is left, or the default is not among them.
    """
    for task in (*tasks, *([default] if default else [])):
        store.check_task(task)
    wanted = list(dict.fromkeys(tasks or store.tasks))
    if wanted and all(store.manifest.tasks[task].all_tiers == ("exact",) for task in wanted):
        raise InputError(
            f"{store.where} is an archive (tier exact), and a swap needs masks or rests; "
            f"`taskstore retier {store.where} --tiers rest -o NEW` packs a store to serve from "
            "its exact copies (--tiers mask: smaller, and further from them)"
        )
    tiers, left_out = dict[str, Tier](), dict[str, str]()
    for task in wanted:
        try:
            check_servable(store.manifest, [task], residual)
            check_written(store, task)
        except SwapError as error:
            if not skip:
                raise SwapError(f"{error}, with --skip-unservable or by --tasks") from None
            left_out[task] = str(error)
        else:
            tiers[task] = tier_of(store.manifest, task, residual)
    if not tiers:
        why = next(iter(left_out.values()), "it has none")
        raise InputError(f"no task of this store can be served: {why}")
    if default and default not in tiers:
        why = left_out.get(default, "it is not among --tasks")
        raise InputError(f"--default-task {default!r} is not served: {why}")
    return Choice(tiers, left_out)


def best_residual(store: Store, tasks: Sequence[str], given: Sequence[str]) -> tuple[int, str]:
    """How many tiers above the mask are served by default, and why not more where there are.

    `given` are vLLM's options. Raises UnknownTask, and InputError where nothing can be served so.
    """
    for task in tasks:
        store.check_task(task)
    manifest, wanted = store.manifest, list(tasks or store.tasks)
    having = [task for task in wanted if "rest" in manifest.tasks[task].all_tiers]
    if not having:
        return 0, ""
    why = _against_rests(store, given)
    if all("mask" not in manifest.tasks[task].all_tiers for task in having):
        if why:
            raise InputError(
                f"{store.where} has rests and no masks, and {why}: serve a store of masks, which "
                "are chosen by taskstore pack --tiers mask"
            )
        return 1, ""
    if why:
        return 0, why
    for task in having:
        problem = unservable(manifest, task, 1)
        if problem and not unservable(manifest, task):
            return 0, f"tensor {problem} (task {task!r})"
    return 1, ""


def _against_rests(store: Store, given: Sequence[str]) -> str:
    """Say why no rest of a store can be served; "" where nothing is known against it."""
    if option_value(given, "tensor-parallel-size", "tp") not in (None, "1"):
        return "tensor parallel cuts what rests are added to"
    turned = base_settings(store).get("model_type") in _TURNED
    return "this model keeps its matrices turned" if turned else ""


def base_settings(store: Store) -> dict[str, Any]:
    """The base's config as it is written; empty without one."""
    if CONFIG not in store.manifest.base.assets:
        return {}
    with TemporaryDirectory(prefix="taskstore-") as scratch:
        return read_settings(store.write_assets(None, scratch) / CONFIG)


def base_names(store: Store, names: Sequence[str], tasks: Sequence[str]) -> tuple[str, ...]:
    """Names of the base at /v1/models: those given, else its own, unless a task has that."""
    for name in names:
        if name in tasks:
            raise InputError(f"--served-model-name {name!r} names the base, but is a task's name")
    base = store.manifest.base
    own = base.name
    if base.source and own == base.revision:  # of a snapshot in a hub's cache
        own = base.source.rpartition("/")[2]
    return tuple(dict.fromkeys(names)) or (f"{own}-base" if own in tasks else own,)


def dtype(manifest: Manifest) -> str:
    """The dtype of most weights of the base, as vLLM calls it."""
    sizes = Counter[str]()
    for tensor in manifest.tensors.values():
        sizes[tensor.dtype] += prod(tensor.shape)
    return TORCH.get(sizes.most_common(1)[0][0], "auto") if sizes else "auto"
