"""Check where the files of tasks lie; which task another one is coded against, its parent.

A task that is coded against the base has depth 1, its children depth 2, and so on (SPEC.md 6).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from taskstore.errors import BadName, FormatError
from taskstore.format import names
from taskstore.format.manifest import Manifest, Task
from taskstore.format.rules.since import VERSION_OF_CHANGES, VERSION_OF_PARENTS

MAX_DEPTH = 64  # tasks in one chain of parents
USUAL_DEPTH = 8  # of what we write, unless told otherwise
Tasks = Mapping[str, Task]


def check_folders(manifest: Manifest) -> None:
    """Refuse folders of tasks that are no plain names, or those of two tasks."""
    for name, task in manifest.tasks.items():
        if task.folder is None:
            continue
        if manifest.version < VERSION_OF_CHANGES:
            raise FormatError(f"task {name!r} has a folder, in a store of version 1 to 4")
        try:
            names.check_task_name(task.folder)
        except BadName as error:
            raise FormatError(f"the folder of task {name!r}: {error}") from None
        if names.folder_of(task.folder) != task.folder:
            raise FormatError(f"the folder of task {name!r}, {task.folder!r}, is no plain name")
    try:
        names.check_distinct(manifest.folder(name) for name in manifest.tasks)
    except BadName:
        raise FormatError("two tasks of the store have one folder") from None


def check_parents(manifest: Manifest) -> None:
    """Refuse a parent that is not there, a cycle, and a chain that is too deep."""
    depth: dict[str, int] = {}
    for name, task in manifest.tasks.items():
        if task.parent is not None and manifest.version < VERSION_OF_PARENTS:
            raise FormatError(f"task {name!r} has a parent, in a store of version 1 to 4")
        if task.parent in manifest.tasks:
            for one in (name, task.parent):
                other = manifest.tasks[one]
                if "exact" not in other.all_tiers or other.adapter is not None:
                    raise FormatError(f"task {name!r} has a parent, and {one!r} is not exact")
        chain = [name]
        while chain[-1] not in depth and (parent := manifest.tasks[chain[-1]].parent) is not None:
            if parent not in manifest.tasks:
                raise FormatError(f"the parent of task {chain[-1]!r}, {parent!r}, is not there")
            if parent in chain:
                raise FormatError(f"task {name!r} is its own parent, by {len(chain)} steps")
            chain.append(parent)
        below = depth.get(chain[-1], 1)
        for above, one in enumerate(reversed(chain)):
            depth[one] = below + above
        if depth[name] > MAX_DEPTH:
            raise FormatError(f"task {name!r} has more than {MAX_DEPTH - 1} tasks above it")


def parents(tasks: Tasks, task: str) -> Iterator[str]:
    """Yield a task's parent, its parent's, and so on."""
    parent = tasks[task].parent
    while parent is not None:
        yield parent
        parent = tasks[parent].parent


def depth(tasks: Tasks, task: str) -> int:
    """Count the tasks from the base to this one."""
    return 1 + sum(1 for _ in parents(tasks, task))


def of_tensor(tasks: Tasks, task: str, tensor: str) -> list[str]:
    """List the tasks that an exact tensor is rebuilt through, itself last.

    The first is coded against the base, or over its own lower tiers.
    """
    found = [task]
    while (parent := tasks[found[-1]].parent) and has_parents(tasks, tasks[found[-1]], tensor):
        found.append(parent)
    return found[::-1]


def has_parents(tasks: Tasks, task: Task, tensor: str) -> bool:
    """Tell whether an exact tensor is coded given the parent's: that has it, and exact."""
    parent = tasks[task.parent] if task.parent is not None else None
    return parent is not None and tensor in parent.tensors and parent.best(tensor) == "exact"
