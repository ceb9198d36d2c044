"""Check where the files of tasks lie, and which task another one is coded against."""

from __future__ import annotations

from taskstore.errors import BadName, FormatError
from taskstore.format import names
from taskstore.format.manifest import Manifest
from taskstore.format.rules.since import VERSION_OF_CHANGES, VERSION_OF_PARENTS

MAX_DEPTH = 64  # tasks in one chain of parents; what writers make is shorter


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
