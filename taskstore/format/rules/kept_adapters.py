"""Check an adapter that a task keeps, and the tensors that are made of it (SPEC.md section 9)."""

from __future__ import annotations

import math
from collections.abc import Mapping

from taskstore.errors import FormatError
from taskstore.format.dtypes import ITEMSIZE, MASKED, MAX_TENSOR_BYTES, nbytes
from taskstore.format.manifest import Manifest, Task, TaskTensor
from taskstore.format.members import Adapter, Factor, Made
from taskstore.format.names import check_asset_path, check_shard_name, check_tensor_name
from taskstore.format.rules.since import VERSION_OF_ADAPTERS

FILE = "adapter_model.safetensors"


def check(manifest: Manifest, name: str, task: Task) -> None:
    """Refuse an adapter that breaks section 9; BadName for a bad name in it."""
    adapter = task.adapter
    if adapter is None:
        return
    if manifest.version < VERSION_OF_ADAPTERS:
        raise FormatError(f"task {name!r} has an adapter, in a store of version {manifest.version}")
    if task.parent is not None or task.shards is not None or task.tiers is not None:
        raise FormatError(f"task {name!r} has an adapter, and a parent, shards or tiers")
    if not adapter.tensors:
        raise FormatError(f"task {name!r} has an adapter without tensors")
    for tensor, factor in adapter.tensors.items():
        check_tensor_name(tensor)
        if factor.dtype not in ITEMSIZE or len(factor.shape) > 64:
            raise FormatError(f"adapter tensor {tensor!r} of task {name!r} is {factor.dtype!r}")
        if nbytes(factor.dtype, [n or 1 for n in factor.shape]) > MAX_TENSOR_BYTES:
            raise FormatError(f"adapter tensor {tensor!r} of task {name!r} is too large")
    for path in adapter.assets:
        check_asset_path(path)
    for file in adapter.shards or ():
        check_shard_name(file)
    if adapter.shards is not None and list(adapter.shards) != [FILE]:
        raise FormatError(f"task {name!r} has an adapter of other weight files than {FILE}")
    if not digests_of(adapter) <= manifest.assets.keys():
        raise FormatError(f"task {name!r} has an adapter with a hash that is not listed")


def digests_of(adapter: Adapter) -> set[str]:
    """Return the assets that an adapter needs."""
    return {*adapter.assets.values(), *(s.header for s in (adapter.shards or {}).values())}


def check_made(manifest: Manifest, task: Task, name: str, entry: TaskTensor) -> None:
    """Refuse a tensor whose parts do not make it; nothing is read for that."""
    if task.adapter is None or entry.made is None or entry.dtype is None or entry.shape is None:
        raise FormatError(f"tensor {name!r} is made of an adapter that is not there")
    try:
        _check_start(manifest, task.adapter, name, entry, entry.made)
        check_parts(entry.made, entry.dtype, entry.shape, task.adapter.tensors)
    except FormatError as error:
        raise FormatError(f"tensor {name!r} {error}") from None


def _check_start(
    manifest: Manifest, adapter: Adapter, name: str, entry: TaskTensor, made: Made
) -> None:
    if made.saved is not None:
        start: object = adapter.tensors.get(made.saved)
    else:
        start = manifest.tensors.get(made.base or name)
    like = start is not None and (start.dtype, start.shape) == (entry.dtype, entry.shape)  # type: ignore[attr-defined]
    if not like or (made.saved is not None and made.base is not None):
        raise FormatError("starts as one that is not there or not like it")


def check_parts(made: Made, dtype: str, shape: list[int], tensors: Mapping[str, Factor]) -> None:
    """Raise FormatError unless factors, vector and rows fit a tensor of this shape."""
    parts = [key for key in (made.a, made.b, made.vector, made.tokens) if key is not None]
    for key in parts:
        factor = tensors.get(key)
        if factor is None or factor.dtype not in MASKED or not factor.shape:
            raise FormatError(f"is made with {key!r}, which is no factor of the adapter")
    if parts and (dtype not in MASKED or not shape):
        raise FormatError(f"of {dtype} {shape} cannot be computed")
    rows, columns = math.prod(shape[:1]), math.prod(shape[1:])
    if made.a is not None or made.b is not None:
        if made.a is None or made.b is None:
            raise FormatError("has one factor of two")
        rows, columns = _check_product(made, shape, tensors[made.a].shape, tensors[made.b].shape)
    if made.vector is not None:
        size = math.prod(tensors[made.vector].shape)
        if size != (columns if made.columns else rows):
            raise FormatError(f"of {rows} rows and {columns} columns is scaled by {size} numbers")
    chosen = made.rows or []
    if (made.tokens is None) != (made.rows is None) or len(set(chosen)) != len(chosen):
        raise FormatError("gets rows without their numbers, or two of one number")
    if made.tokens is not None and (
        tensors[made.tokens].shape != [len(chosen), *shape[1:]] or max(chosen, default=0) >= rows
    ):
        raise FormatError("gets rows that it does not have")


def _check_product(made: Made, shape: list[int], a: list[int], b: list[int]) -> tuple[int, int]:
    """Return rows and columns, over all experts."""
    experts, size = made.experts, math.prod(shape)
    rank = a[0] // experts if experts else 0
    if not rank or a[0] != rank * experts or math.prod(b[1:]) != rank * experts:
        raise FormatError(f"has factors {a} and {b} of no common rank")
    height, columns = b[0], math.prod(a[1:])
    if made.turned:
        height, columns = columns, height
    if not 0 < rank <= max(height, columns):
        raise FormatError(f"has factors {a} and {b} of a rank beyond the matrix")
    if made.expert is None:
        plain, fused = experts == 1 and shape[0] == height, shape[:2] == [experts, height]
        fits = (plain or fused) and size == experts * height * columns and not made.row
        return experts * height, columns if fits else _misfit(shape, a, b)
    inside = made.expert < experts and made.row + shape[0] <= height
    return shape[0], columns if inside and size == shape[0] * columns else _misfit(shape, a, b)


def _misfit(shape: list[int], a: list[int], b: list[int]) -> int:
    raise FormatError(f"of {shape} is not what factors {a} and {b} make")
