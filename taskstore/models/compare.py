"""Compare fine-tunes with their base, tensor by tensor, by headers, and by content where needed.

    shared    float, in the base, same shape. A vocabulary that grew is shared in the base's rows
              and private in the others.
    base      not a maskable dtype, bit for bit the base's
    private   everything else: heads, other shapes, integers that changed. Always with a reason.
    alias     the same bytes as another tensor of the task, tied in every model that has both

A fine-tune that shares less than half of its weights, or whose config names another architecture,
is refused with the first differences.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from taskstore.errors import InputError, NotOneFamily
from taskstore.format.dtypes import MASKED, numel
from taskstore.models import Checkpoint, TensorInfo
from taskstore.models.config import language_config
from taskstore.models.family import Family
from taskstore.models.tied import same_bytes, tied

MIN_SHARED = 0.5
_ARCHITECTURE = ("model_type", "hidden_size", "num_hidden_layers", "n_embd", "n_layer", "d_model")
_VOCABULARY = re.compile(r"(embed_tokens|wte|word_embeddings|lm_head|shared|tok_embeddings)\b")


@dataclass(frozen=True)
class TensorPlan:
    """One tensor of one task."""

    kind: str
    info: TensorInfo
    reason: str = ""
    of: str = ""


@dataclass(frozen=True)
class TaskPlan:
    entries: Mapping[str, TensorPlan]


@dataclass(frozen=True)
class Plan:
    """Per task its entries; `aliases`: tensor of the base -> the one with its bytes."""

    tasks: tuple[TaskPlan, ...]
    aliases: Mapping[str, str] = field(default_factory=dict)

    def tasks_of(self, name: str, kind: str) -> tuple[int, ...]:
        """Return the tasks whose tensor is of a kind: "shared", or the tier that it became."""
        return tuple(
            t
            for t, task in enumerate(self.tasks)
            if name in task.entries and task.entries[name].kind == kind
        )


def compare(family: Family) -> Plan:
    """Compare all models of a family; raises NotOneFamily for a fine-tune of something else."""
    if not any(i.dtype in MASKED and i.numel for i in family.base.tensors.values()):
        raise InputError(f"{family.base.name} holds no BF16, F16 or F32 weights")
    configs = [language_config(model) for model in (family.base, *family.tasks)]
    for task, config in zip(family.tasks, configs[1:], strict=True):
        _check_config(family.base, configs[0], task, config)
    aliases = tied(family)
    tasks = tuple(
        _plan_task(family.base, configs[0], task, config, aliases)
        for task, config in zip(family.tasks, configs[1:], strict=True)
    )
    return Plan(tasks, aliases)


def _plan_task(
    base: Checkpoint,
    base_config: Mapping[str, object],
    task: Checkpoint,
    config: Mapping[str, object],
    aliases: Mapping[str, str],
) -> TaskPlan:
    entries: dict[str, TensorPlan] = {}
    for name in sorted(task.tensors):
        info = task.tensors[name]
        if name in aliases:
            entries[name] = TensorPlan("alias", info, of=aliases[name])
        elif name not in base.tensors:
            entries[name] = TensorPlan("private", info, "not in the base")
        else:
            entries[name] = _compare(base, base_config, task, config, name)
    _check_shared(base, task, entries)
    for name, entry in list(entries.items()):
        of = _own_alias(task, entries, name) if entry.reason == "not in the base" else None
        if of:
            entries[name] = TensorPlan("alias", entry.info, of=of)
    return TaskPlan(entries)


def _compare(
    base: Checkpoint,
    base_config: Mapping[str, object],
    task: Checkpoint,
    config: Mapping[str, object],
    name: str,
) -> TensorPlan:
    ours, theirs = task.tensors[name], base.tensors[name]
    if ours.shape != theirs.shape:
        both_float = ours.dtype in MASKED and theirs.dtype in MASKED
        if both_float and _grew(name, theirs, ours, base_config, config):
            return TensorPlan("shared", ours)
        return TensorPlan(
            "private", ours, f"shape {list(ours.shape)}, {list(theirs.shape)} in the base"
        )
    if ours.dtype in MASKED and theirs.dtype in MASKED:
        return TensorPlan("shared", ours)
    if ours.dtype != theirs.dtype:
        return TensorPlan("private", ours, f"{ours.dtype}, {theirs.dtype} in the base")
    if same_bytes(base, name, task, name):
        return TensorPlan("base", ours)
    return TensorPlan(
        "private", ours, f"{ours.dtype} is never masked, and it differs from the base"
    )


def _grew(
    name: str,
    old: TensorInfo,
    new: TensorInfo,
    base_config: Mapping[str, object],
    config: Mapping[str, object],
) -> bool:
    """Tell whether a vocabulary got rows: by the configs' vocab_size, else by its name."""
    if not old.shape or old.shape[1:] != new.shape[1:] or new.shape[0] <= old.shape[0]:
        return False
    sizes = base_config.get("vocab_size"), config.get("vocab_size")
    if None not in sizes:
        return sizes == (old.shape[0], new.shape[0])
    return bool(_VOCABULARY.search(name))


def _own_alias(task: Checkpoint, entries: Mapping[str, TensorPlan], name: str) -> str | None:
    """Find a tensor of the base's that this task saved a second time, under another name."""
    info = task.tensors[name]
    for other, entry in entries.items():
        same = entry.kind in ("shared", "base") and entry.info == info and len(info.shape) > 1
        if same and same_bytes(task, name, task, other):
            return other
    return None


def _check_shared(base: Checkpoint, task: Checkpoint, entries: Mapping[str, TensorPlan]) -> None:
    shared = sum(
        numel(base.tensors[name].shape)
        for name, entry in entries.items()
        if name in base.tensors and entry.kind != "private"
    )
    for model in (base, task):
        total = sum(info.numel for info in model.tensors.values())
        if shared < MIN_SHARED * total:
            raise NotOneFamily(task.name, base.name, _differences(base, task))


def _differences(base: Checkpoint, task: Checkpoint) -> list[str]:
    found = []
    for name in sorted(set(base.tensors) | set(task.tensors)):
        ours, theirs = task.tensors.get(name), base.tensors.get(name)
        if ours is None:
            found.append(f"it lacks {name!r}")
        elif theirs is None:
            found.append(f"it has {name!r}, which the base lacks")
        elif ours.shape != theirs.shape:
            found.append(f"{name!r} is {list(ours.shape)} instead of {list(theirs.shape)}")
        elif (ours.dtype in MASKED) != (theirs.dtype in MASKED):
            found.append(f"{name!r} is {ours.dtype} instead of {theirs.dtype}")
    return [*found[:3], *([f"and {len(found) - 3} more"] if len(found) > 3 else [])]


def _check_config(
    base: Checkpoint,
    base_config: Mapping[str, object],
    task: Checkpoint,
    config: Mapping[str, object],
) -> None:
    wrong = [
        f"its config has {key} {config[key]!r} instead of {base_config[key]!r}"
        for key in _ARCHITECTURE
        if key in config and key in base_config and config[key] != base_config[key]
    ]
    if wrong:
        raise NotOneFamily(task.name, base.name, (*wrong[:2], *_differences(base, task)[:3]))
