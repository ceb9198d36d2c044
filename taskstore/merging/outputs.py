"""What a merged model consists of and what is left out, decided before anything is merged.

The tensors are the base's. The part of a tensor that tasks share is merged; where no task has a
vector, the base's bits stay. Everything that cannot be merged becomes a line of `notes`: nothing is
dropped, cut or cast without one.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from taskstore.errors import InputError
from taskstore.format.dtypes import MASKED
from taskstore.merging.assets import agree
from taskstore.merging.options import MergeOptions
from taskstore.models import Checkpoint, TensorInfo
from taskstore.models.compare import Plan
from taskstore.models.family import Family
from taskstore.models.tied import twins


@dataclass(frozen=True)
class Output:
    """One tensor of the merged model.

    source   the base's tensor that is merged for it ("": none; it is copied)
    tasks    numbers of the tasks that have a vector for it
    copied   model whose elements from `start` on are copied: the rest of the tensor, or all of it
    """

    info: TensorInfo
    source: str = ""
    tasks: tuple[int, ...] = ()
    copied: Checkpoint | None = None
    start: int = 0


@dataclass
class Outputs:
    """The tensors by name; `notes` are tensor or file -> what became of it.

    `files` go in place of the base's, or beside them: path -> bytes.
    """

    tensors: dict[str, Output] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)

    @property
    def infos(self) -> dict[str, TensorInfo]:
        return {name: output.info for name, output in self.tensors.items()}

    def merged(self) -> list[tuple[str, Output]]:
        """The outputs that a method merges, sorted; a tied tensor is merged under one name."""
        every = sorted(self.tensors.items())
        return [(name, o) for name, o in every if o.tasks and o.source == name]


def decide(family: Family, plan: Plan, options: MergeOptions) -> Outputs:
    """The outputs of a merge; raises InputError if a tensor that is asked for cannot be had."""
    found = Outputs()
    for one, two in twins(family):
        found.notes[two] = f"the same model as {one}, bit for bit; it counts twice"
    for task in family.tasks:
        if task.spelling:
            found.notes[f"names of {task.name}"] = task.spelling
        for i, note in enumerate(task.notes):
            found.notes[f"{task.name}" + f" ({i + 1})" * (i > 0)] = note
    for name, info in sorted(family.base.tensors.items()):
        if info.dtype in MASKED:
            found.tensors[name] = _merged(family, plan, options, name, found.notes)
        else:
            found.tensors[name] = _untouched(family, plan, name, found.notes)
    for t in range(len(family.tasks)):
        _add_private(family, plan, options, t, found)
    donor = donor_of(family, options)
    _note_files(family, donor or family.base, found.notes)
    agreed = agree(family.base, family.tasks)
    if donor is None:
        found.files = agreed.files
    else:
        taken = f"differs between the models; taken from {donor.name}"
        agreed.notes = {path: taken for path in agreed.notes if path in donor.assets}
    found.notes |= {path: why for path, why in agreed.notes.items() if path not in found.notes}
    head = named(family, options.private_from)
    if head is not None and not any(output.copied is head for output in found.tensors.values()):
        raise InputError(f"{head.name} has no tensors of its own that `private_from` could take")
    return found


def named(family: Family, name: str | None) -> Checkpoint | None:
    """The task of that name, if there is one."""
    return next((task for task in family.tasks if task.name == name), None)


def donor_of(family: Family, options: MergeOptions) -> Checkpoint | None:
    """The model whose config and tokenizer are taken as they are; None: what all models share."""
    if options.assets_from is not None:
        return named(family, options.assets_from) or family.base
    return named(family, options.tokenizer_from)


def _merged(
    family: Family, plan: Plan, options: MergeOptions, name: str, notes: dict[str, str]
) -> Output:
    """Floats: merged from the tasks that share them; more rows come from the tokenizer's model."""
    base, source = family.base.tensors[name], plan.aliases.get(name, name)
    tasks = plan.tasks_of(source, "shared")
    info, donor = TensorInfo(options.dtype or base.dtype, base.shape), None
    without = [t for t in range(len(family.tasks)) if t not in tasks]
    if without and tasks:
        notes[name] = f"merged without {_names(family, without)}: not there, or not like that"
    elif without:
        notes[name] = "left as in the base; no model has it, or not like that"
    for task in (family.tasks[t] for t in tasks):
        shape = task.tensors[source].shape
        if shape == base.shape:
            continue
        if task.name == options.tokenizer_from:
            info = TensorInfo(info.dtype, shape)
            donor = task if shape > base.shape else None
            continue
        more = f"{shape[0] - base.shape[0]} rows past the base's {base.shape[0]} left out"
        if shape < base.shape:
            more = (
                f"{base.shape[0] - shape[0]} of the base's {base.shape[0]} rows count as unchanged"
            )
        notes.setdefault(f"{name} of {task.name}", more)
    return Output(info, source, tasks, donor, base.numel if donor else 0)


def _untouched(family: Family, plan: Plan, name: str, notes: dict[str, str]) -> Output:
    """Integers and the like: the base's or, if tasks have others, those of the first such task."""
    info = family.base.tensors[name]
    own = [t for t in plan.tasks_of(name, "private") if family.tasks[t].tensors[name] == info]
    if not own:
        return Output(info, copied=family.base)
    first = family.tasks[own[0]]
    differ = f"{_names(family, own)} differ from the base"
    notes[name] = f"{info.dtype}, taken from {first.name}; {differ}"
    return Output(info, copied=first)


def _add_private(family: Family, plan: Plan, options: MergeOptions, t: int, found: Outputs) -> None:
    """A task's own tensors: taken from `private_from`, else left out with a note."""
    task = family.tasks[t]
    for name, entry in plan.tasks[t].items():
        if entry.kind == "alias" and name not in found.tensors and entry.of in found.tensors:
            found.notes[f"{name} of {task.name}"] = f"left out; it is {entry.of} once more"
        base = family.base.tensors.get(name)
        if entry.kind != "private" or (base == entry.info and base.dtype not in MASKED):
            continue
        if task.name == options.private_from:
            dtype = options.dtype if options.dtype and entry.info.dtype in MASKED else None
            info = TensorInfo(dtype or entry.info.dtype, entry.info.shape)
            found.tensors[name] = Output(info, copied=task)
            found.notes[name] = f"taken from {task.name} ({entry.reason})"
        else:
            found.notes.setdefault(f"{name} of {task.name}", f"left out: {entry.reason}")


def _note_files(family: Family, donor: Checkpoint, notes: dict[str, str]) -> None:
    """Note weights beside the models' own: those of one model are copied, none are merged."""
    for model in (family.base, *family.tasks):
        for path in model.beside:
            taken = f"taken from {donor.name}" if path in donor.beside else "left out"
            notes.setdefault(path, f"weights beside the model's own are not merged; {taken}")
        for path in model.left_out:
            notes[f"{path} of {model.name}"] = "left out: weights that the model is not read from"


def _names(family: Family, tasks: list[int]) -> str:
    return ", ".join(family.tasks[t].name for t in tasks)
