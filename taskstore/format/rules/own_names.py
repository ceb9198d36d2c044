"""The names and cuts of tensors in a fine-tune's own files (SPEC.md 5, `names`)."""

from __future__ import annotations

from collections.abc import Sequence

from taskstore.errors import BadName, FormatError
from taskstore.format.dtypes import numel
from taskstore.format.manifest import Manifest, SavedAs, Task
from taskstore.format.names import check_tensor_name

VERSION_OF_NAMES = 4


def layout(manifest: Manifest, task: Task, name: str) -> tuple[str, Sequence[int]]:
    """Return dtype and shape of a task's tensor, by its name in `tensors`."""
    of = task.tensors[name].of or name
    entry, base = task.tensors[of], manifest.tensors.get(of)
    dtype = entry.dtype or (base.dtype if base else "")
    return dtype, entry.shape if entry.shape is not None else (base.shape if base else [])


def own_layout(manifest: Manifest, task: Task, made: SavedAs) -> tuple[str, Sequence[int]]:
    """Return dtype and shape of a tensor in the fine-tune's own files."""
    dtype, shape = layout(manifest, task, made.of[0])
    return dtype, shape if made.shape is None else made.shape


def check(manifest: Manifest, label: str, task: Task) -> None:
    """Raise FormatError unless `names` holds every tensor that it names, each element once."""
    if task.names is None:
        return
    if manifest.version < VERSION_OF_NAMES:
        raise FormatError(f"task {label!r} has names, in a store of version {manifest.version}")
    held: dict[str, list[tuple[int, int]]] = {}
    for name, made in task.names.items():
        try:
            check_tensor_name(name)
        except BadName as error:
            raise FormatError(str(error)) from None
        if not made.of or any(of not in task.tensors for of in made.of):
            raise FormatError(f"task {label!r}: {name!r} is made of tensors that are not there")
        layouts = [layout(manifest, task, of) for of in made.of]
        whole = [numel(shape) for _, shape in layouts]
        size = numel(own_layout(manifest, task, made)[1])
        fits = len(made.of) == 1 if made.start is not None else sum(whole) == size
        if not fits or len({dtype for dtype, _ in layouts}) > 1:
            raise FormatError(f"task {label!r}: {name!r} does not fit what it is made of")
        for of, count in zip(made.of, whole, strict=True):
            start = made.start or 0
            held.setdefault(of, []).append((start, start + (count if made.start is None else size)))
    for of, spans in held.items():
        end = 0
        for start, stop in sorted(spans):
            if start != end:
                raise FormatError(f"task {label!r}: {of!r} has elements with no name, or with two")
            end = stop
        if end != numel(layout(manifest, task, of)[1]):
            raise FormatError(f"task {label!r}: {of!r} has elements with no name, or with two")
    for name in task.names:
        if name in task.tensors and name not in held:
            raise FormatError(f"task {label!r} has two tensors {name!r}")
