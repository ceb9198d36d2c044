"""What the merged model consists of, and what is left out, decided before anything is merged.

The tensors are the base's. What the tasks share of one is merged; the base's own bits stay where no
task differs. Everything that cannot be merged becomes a line of `notes`: nothing is dropped, cut or
cast in silence.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from taskstore.errors import InputError
from taskstore.format.dtypes import MASKED
from taskstore.merging.options import MergeOptions
from taskstore.models import Checkpoint, TensorInfo
from taskstore.models.compare import Plan
from taskstore.models.family import Family


@dataclass(frozen=True)
class Output:
    """One tensor of the merged model.

    source   the base's tensor that is merged for it ("": none; it is copied)
    tasks    numbers of the tasks that have a vector for it
    copied   model that the rest, or all of it, comes from: elements from `start` on of its tensor
    """

    info: TensorInfo
    source: str = ""
    tasks: tuple[int, ...] = ()
    copied: Checkpoint | None = None
    start: int = 0


@dataclass
class Outputs:
    """By name; `notes` are tensor or file -> what became of it."""

    tensors: dict[str, Output] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)


def decide(family: Family, plan: Plan, options: MergeOptions) -> Outputs:
    """Raises InputError where a tensor that is asked for cannot be had."""
    found = Outputs()
    donors = {task.name: task for task in family.tasks}
    rows_from = donors.get(options.tokenizer_from or "")
    for name, info in sorted(family.base.tensors.items()):
        source = plan.aliases.get(name, name)
        tasks = plan.tasks_of(source, "shared")
        if info.dtype not in MASKED:
            found.tensors[name] = _untouched(family, plan, name, found.notes)
        else:
            found.tensors[name] = _merged(
                family, plan, name, source, tasks, rows_from, options.dtype, found.notes
            )
    _private(family, plan, options, donors.get(options.private_from or ""), found)
    return found


def _merged(
    family: Family,
    plan: Plan,
    name: str,
    source: str,
    tasks: tuple[int, ...],
    rows_from: Checkpoint | None,
    dtype: str | None,
    notes: dict[str, str],
) -> Output:
    base = family.base.tensors[name]
    info, donor = TensorInfo(dtype or base.dtype, base.shape), None
    without = [t for t in range(len(family.tasks)) if t not in tasks]
    if without and tasks:
        notes[name] = f"merged without {_names(family, without)}: not there, or not like that"
    elif without:
        notes[name] = "left as in the base; no model has it, or not like that"
    for t in tasks:
        task = family.tasks[t]
        theirs = task.tensors[source]
        if theirs.shape == base.shape:
            continue
        if task is rows_from:
            info, donor = TensorInfo(info.dtype, theirs.shape), task
        else:
            more = theirs.shape[0] - base.shape[0]
            notes.setdefault(
                f"{name} of {task.name}", f"{more} rows past the base's {base.shape[0]} left out"
            )
    return Output(info, source, tasks, donor, base.numel if donor else 0)


def _untouched(family: Family, plan: Plan, name: str, notes: dict[str, str]) -> Output:
    """Integers and the like: the base's, or where tasks differ, the first task's that has them."""
    info = family.base.tensors[name]
    own = [t for t in plan.tasks_of(name, "private") if family.tasks[t].tensors[name] == info]
    if not own:
        return Output(info, copied=family.base)
    first = family.tasks[own[0]]
    notes[name] = (
        f"{info.dtype}, taken from {first.name}; {_names(family, own)} differ from the base"
    )
    return Output(info, copied=first)


def _private(
    family: Family, plan: Plan, options: MergeOptions, donor: Checkpoint | None, found: Outputs
) -> None:
    for t, task in enumerate(family.tasks):
        for name, entry in plan.tasks[t].entries.items():
            if entry.kind == "alias" and name not in found.tensors and entry.of in found.tensors:
                found.notes[f"{name} of {task.name}"] = f"left out; it is {entry.of} once more"
            base = family.base.tensors.get(name)
            if entry.kind != "private" or (base == entry.info and base.dtype not in MASKED):
                continue
            if task is donor:
                dtype = options.dtype if options.dtype and entry.info.dtype in MASKED else None
                info = TensorInfo(dtype or entry.info.dtype, entry.info.shape)
                found.tensors[name] = Output(info, copied=task)
                found.notes[name] = f"taken from {task.name} ({entry.reason})"
            else:
                found.notes.setdefault(f"{name} of {task.name}", f"left out: {entry.reason}")
    if donor is not None and not any(output.copied is donor for output in found.tensors.values()):
        raise InputError(f"{donor.name} has no tensors of its own that --private-from could take")


def _names(family: Family, tasks: list[int]) -> str:
    return ", ".join(family.tasks[t].name for t in tasks)
