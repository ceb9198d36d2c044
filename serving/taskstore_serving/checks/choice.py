"""Chooses which tasks of a store are served, and under which names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

from taskstore.errors import InputError, SwapError
from taskstore.format.manifest import Manifest
from taskstore.models.config import TORCH
from taskstore.store import Store
from taskstore_serving.checks.configs import check_written
from taskstore_serving.checks.servable import Tier, check_servable, tier_of


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
    tiers, left_out = dict[str, Tier](), dict[str, str]()
    for task in dict.fromkeys(tasks or store.tasks):
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


def base_names(store: Store, names: Sequence[str], tasks: Sequence[str]) -> tuple[str, ...]:
    """Names of the base at /v1/models: those given, else its own, unless a task has that."""
    for name in names:
        if name in tasks:
            raise InputError(f"--served-model-name {name!r} names the base, but is a task's name")
    own = store.manifest.base.name
    return tuple(dict.fromkeys(names)) or (f"{own}-base" if own in tasks else own,)


def dtype(manifest: Manifest) -> str:
    """The dtype of most weights of the base, as vLLM calls it."""
    sizes = Counter[str]()
    for tensor in manifest.tensors.values():
        sizes[tensor.dtype] += prod(tensor.shape)
    return TORCH.get(sizes.most_common(1)[0][0], "auto") if sizes else "auto"
