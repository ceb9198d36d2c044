"""Compare fine-tunes with their base, tensor by tensor, by headers, and by content where needed.

    shared    float, in the base, same shape. A vocabulary that grew or was cut is shared in the
              rows that both have, and private in the others.
    base      not a maskable dtype, bit for bit the base's
    private   everything else: heads, other shapes, integers that changed. Always with a reason.
    alias     the same bytes as another tensor of the task, tied in every model that has both

A fine-tune that shares less than half of its weights, or whose config names another architecture,
is refused with the first differences.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from taskstore.errors import InputError, NotOneFamily
from taskstore.format.dtypes import MASKED
from taskstore.format.members import Made
from taskstore.models import Checkpoint, TensorInfo
from taskstore.models.config import language_config, quantisation
from taskstore.models.family import Family
from taskstore.models.likeness import LEAST, cosine
from taskstore.models.readers.lora import LoraReader
from taskstore.models.tied import same_bytes, tied

MIN_SHARED, MANY_SHARED = 0.5, 0.75  # of elements, of tensors
MANY_OTHER = 0.1  # of elements, of a dtype that masks do not take
_ARCHITECTURE = ("model_type", "hidden_size", "num_hidden_layers", "n_embd", "n_layer", "d_model")
_VOCABULARY = re.compile(r"(embed_tokens|wte|word_embeddings|lm_head|shared|tok_embeddings)\b")


@dataclass(frozen=True)
class TensorPlan:
    """One tensor of one task."""

    kind: str
    info: TensorInfo
    reason: str = ""
    of: str = ""
    made: Made | None = None
    codec: str | None = None  # of an exact tensor or a rest, where it is not the usual one


TaskPlan = Mapping[str, TensorPlan]  # by tensor


@dataclass(frozen=True)
class Plan:
    """A plan per task; `aliases`: tensor of the base -> the one with its bytes."""

    tasks: tuple[TaskPlan, ...]
    aliases: Mapping[str, str] = field(default_factory=dict)

    def tasks_of(self, name: str, *kinds: str) -> tuple[int, ...]:
        """Return the tasks whose tensor is of a kind: "shared", or the tier that it became."""
        return tuple(
            t for t, task in enumerate(self.tasks) if name in task and task[name].kind in kinds
        )


def compare(
    family: Family, keep_private: bool | Collection[str] = True, *, any_dtype: bool = False
) -> Plan:
    """Compare all models of a family.

    `any_dtype`: tensors of every dtype are shared, as archives take them. `keep_private`: tasks, or
    all, whose tensors of other shapes than the base's are private. Raises NotOneFamily for a
    fine-tune of something else, InputError for such tensors of another task.
    """
    held = {i.dtype for i in family.base.tensors.values() if i.numel}
    if not held & (held if any_dtype else MASKED):
        raise InputError(
            f"{family.base.name} holds no BF16, F16 or F32 weights, but {_some(held)}; masks, "
            "rests and merges take only these: convert the models (model.to(torch.bfloat16), "
            'save_pretrained), or keep them as they are with tiers="exact"'
        )
    base, *tasks = (_Model(model, language_config(model)) for model in (family.base, *family.tasks))
    for task in tasks:
        _check_config(base, task)
    aliases = tied(family)
    plans = []
    for task in tasks:
        plans.append(
            _plan_task(base, task, aliases, any_dtype=any_dtype, sure=family.aliases is None)
        )
        if not family.parts:
            _check_shared(base.checkpoint, task.checkpoint, plans[-1])
        name = task.checkpoint.name
        if not keep_private or (keep_private is not True and name not in keep_private):
            _check_shapes(base.checkpoint, task.checkpoint, plans[-1])
    return Plan(tuple(plans), aliases)


class _Model(NamedTuple):
    checkpoint: Checkpoint
    config: Mapping[str, object]


def _plan_task(
    base_model: _Model,
    model: _Model,
    aliases: Mapping[str, str],
    *,
    any_dtype: bool,
    sure: bool,
) -> TaskPlan:
    base, task = base_model.checkpoint, model.checkpoint
    entries: dict[str, TensorPlan] = {}
    rows = _vocabularies(base_model, model)
    for name in sorted(task.tensors):
        info = task.tensors[name]
        if name in aliases:
            other = aliases[name]
            tied = sure or (other in task.tensors and same_bytes(task, name, task, other))
            untied = TensorPlan("private", info, f"tied to {other!r} in the store's base")
            entries[name] = TensorPlan("alias", info, of=other) if tied else untied
            continue
        if name not in base.tensors:
            entries[name] = TensorPlan("private", info, "not in the base")
        else:
            entries[name] = _compare(base, task, name, rows)
        found = entries[name]
        if any_dtype and found.kind == "private" and base.tensors.get(name) == info and info.numel:
            entries[name] = TensorPlan("shared", info)
    for name, entry in list(entries.items()):
        of = _own_alias(task, entries, name) if entry.reason == "not in the base" else None
        if of:
            entries[name] = TensorPlan("alias", entry.info, of=of)
    return entries


def _compare(base: Checkpoint, task: Checkpoint, name: str, rows: Collection[str]) -> TensorPlan:
    ours, theirs = task.tensors[name], base.tensors[name]
    both_float = ours.dtype in MASKED and theirs.dtype in MASKED
    if ours.shape != theirs.shape:
        if name in rows:
            return TensorPlan("shared", ours)
        reason = f"shape {list(ours.shape)}, {list(theirs.shape)} in the base"
        return TensorPlan("private", ours, reason)
    if both_float:
        return TensorPlan("shared", ours)
    if ours.dtype != theirs.dtype:
        return TensorPlan("private", ours, f"{ours.dtype}, {theirs.dtype} in the base")
    if same_bytes(base, name, task, name):
        return TensorPlan("base", ours)
    reason = f"{ours.dtype} is never masked, and it differs from the base"
    return TensorPlan("private", ours, reason)


def _check_shapes(base: Checkpoint, task: Checkpoint, entries: TaskPlan) -> None:
    """Refuse tensors that are in the base in another shape, and are no vocabulary.

    An adapter's are taken: it saved them as modules of its own, so they are no mistake.
    """
    whole = task.reader.saved if isinstance(task.reader, LoraReader) else {}
    private = [n for n, entry in entries.items() if entry.kind == "private" and n in base.tensors]
    shapes = {n: (task.tensors[n].shape, base.tensors[n].shape) for n in private}
    other = [n for n, (ours, theirs) in shapes.items() if ours != theirs and n not in whole]
    holes = [n for n in other if base.tensors[n].numel and not task.tensors[n].numel]
    if holes:
        raise InputError(
            f"{task.name}: {len(holes)} of {len(task.tensors)} tensors have no elements where the "
            f"base has some ({_some(holes)}), as ZeRO-3 saves weights that lie on other devices; "
            "gather them when you save (stage3_gather_16bit_weights_on_model_save), or run "
            "zero_to_fp32.py on the checkpoint; keep_private=True packs them as they are"
        )
    if other:
        ours, theirs = shapes[other[0]]
        raise InputError(
            f"{task.name}: {len(other)} of {len(task.tensors)} tensors have another shape than the "
            f"base's and are no vocabulary ({_some(other)}; the first {list(ours)}, "
            f"{list(theirs)} in the base); keep_private=True keeps them whole, beside the base's"
        )


def _some(names: Collection[str], most: int = 3) -> str:
    """Name the first of many."""
    return ", ".join(sorted(names)[:most]) + (" ..." if len(names) > most else "")


def _vocabularies(base_model: _Model, model: _Model) -> set[str]:
    """Find tensors that have more or fewer rows than the base's, and the others in common.

    Told by the configs' vocab_size, by the name, or because the common rows are alike; and what
    changed by the same rows as one of those, as a bias does.
    """
    base, task = base_model.checkpoint, model.checkpoint
    sizes = base_model.config.get("vocab_size"), model.config.get("vocab_size")
    found, by_rows = set(), dict[str, tuple[int, int]]()
    for name, ours in task.tensors.items():
        theirs = base.tensors.get(name)
        if theirs is None or not {ours.dtype, theirs.dtype} <= MASKED or not ours.shape:
            continue
        same = len(ours.shape) == len(theirs.shape) and ours.shape[1:] == theirs.shape[1:]
        if not same or ours.shape == theirs.shape or not (ours.numel and theirs.numel):
            continue
        by_rows[name] = (theirs.shape[0], ours.shape[0])
        named = sizes == by_rows[name] or _VOCABULARY.search(name)
        if named or (cosine(base, task, [(name, name)]) or 0) >= LEAST:
            found.add(name)
    changes = {by_rows[name] for name in found}
    return {name for name, change in by_rows.items() if change in changes}


def _own_alias(task: Checkpoint, entries: Mapping[str, TensorPlan], name: str) -> str | None:
    """Find a tensor of the base's that this task saved a second time, under another name."""
    info = task.tensors[name]
    for other, entry in entries.items():
        same = entry.kind in ("shared", "base") and entry.info == info and len(info.shape) > 1
        if same and same_bytes(task, name, task, other):
            return other
    return None


def _check_shared(base: Checkpoint, task: Checkpoint, entries: Mapping[str, TensorPlan]) -> None:
    """Refuse a fine-tune that shares too little, by elements as by the number of its tensors."""
    shared = {n for n, entry in entries.items() if n in base.tensors and entry.kind != "private"}
    for model in (base, task):
        total = sum(info.numel for info in model.tensors.values())
        common = sum(base.tensors[name].numel for name in shared)
        if common < MIN_SHARED * total and len(shared) < MANY_SHARED * len(model.tensors):
            if problem := _of_dtypes(base, task):
                raise InputError(problem)
            raise NotOneFamily(task.name, base.name, _differences(base, task))


def _of_dtypes(base: Checkpoint, task: Checkpoint) -> str | None:
    """Say that models share little because weights are no floats of 16 or 32 bits."""
    pairs: dict[tuple[bool, bool], list[str]] = {}
    for name in sorted(set(task.tensors) & set(base.tensors)):
        floats = (task.tensors[name].dtype in MASKED, base.tensors[name].dtype in MASKED)
        pairs.setdefault(floats, []).append(name)
    for floats, one in (((False, True), task), ((True, False), base), ((False, False), base)):
        found = pairs.get(floats, [])
        total = sum(info.numel for info in one.tensors.values())
        if sum(one.tensors[name].numel for name in found) > MANY_OTHER * total:
            info = one.tensors[found[0]]
            how = ", ".join(filter(None, [quantisation(one), f"{found[0]!r} is {info.dtype}"]))
            who = f"{one.name} is" if any(floats) else f"{base.name} and {task.name} are"
            wide = info.dtype in ("F64", "C64")
            return (
                f"{who} {'of a wide dtype' if wide else 'quantised'} ({how}), and masks, rests and "
                "merges take BF16, F16 and F32 weights; convert with transformers "
                f"({'model.to(torch.bfloat16)' if wide else 'model.dequantize()'}, then "
                'save_pretrained); tiers="exact" keeps models whose base has their dtype'
            )
    return None


def _differences(base: Checkpoint, task: Checkpoint) -> list[str]:
    """Say why two models share little: rules for names that failed, else the first tensors."""
    if task.failed:
        return [f"its names fit by a rule, {rule}" for rule in task.failed]
    if not set(base.tensors) & set(task.tensors):
        return [
            f"they have no name in common, as {min(task.tensors, default='')!r} there and "
            f"{min(base.tensors, default='')!r} here, and no other prefix, wrapper, layout of "
            "experts or name of transformers' makes them equal"
        ]
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


def _check_config(base: _Model, task: _Model) -> None:
    wrong = [
        f"its config has {key} {task.config[key]!r} instead of {base.config[key]!r}"
        for key in _ARCHITECTURE
        if key in task.config and key in base.config and task.config[key] != base.config[key]
    ]
    if wrong:
        ours, theirs = task.checkpoint, base.checkpoint
        raise NotOneFamily(ours.name, theirs.name, (*wrong[:2], *_differences(theirs, ours)[:3]))
