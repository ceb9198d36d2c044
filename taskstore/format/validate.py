"""Refuse what SPEC.md section 5 says a reader must refuse in a manifest that parsed."""

from __future__ import annotations

from collections.abc import Mapping

from taskstore.errors import BadName, FormatError, UnknownCodec
from taskstore.format import names, weight_files
from taskstore.format.dtypes import ITEMSIZE, MASKED, MAX_TENSOR_BYTES, nbytes, numel, plain_codec
from taskstore.format.manifest import TIERS, VERSION, Base, Manifest, Task, TaskTensor, Tensor
from taskstore.format.rules import kept_adapters, lineage, own_names, said
from taskstore.format.rules.since import (
    CODECS_OF_TIERS,
    OLDER_CODECS,
    VERSION_OF_CUTS,
    VERSION_OF_DELTAS,
    VERSION_OF_EXACT,
    VERSION_OF_FACTORED,
    VERSION_OF_LOW_RANK,
    VERSION_OF_SPARSE,
    VERSION_OF_TIERS,
    VERSION_OF_VECTORS,
)

MULTITASK_CODECS = ("deltas", "rounded", "strides", "ulp")
SINCE = {  # codecs of an exact tensor
    "sparse": VERSION_OF_SPARSE,
    "deltas": VERSION_OF_DELTAS,
    "low_rank": VERSION_OF_LOW_RANK,
}
PLAIN_CODECS = ("planes", "rotated")


def check(manifest: Manifest) -> None:
    """Raise FormatError at the first MUST that the manifest breaks."""
    if manifest.chunk % 64 or not 64 <= manifest.chunk <= 1 << 24:
        raise FormatError(f"chunk {manifest.chunk} is not a multiple of 64 from 64 to 16777216")
    if not manifest.tasks:
        raise FormatError("the store has no task")
    if not manifest.base.carried and manifest.base.source is None:
        raise FormatError("the store references a base and does not say where it is")
    try:
        _check_names(manifest)
    except BadName as error:
        raise FormatError(str(error)) from None
    for name, tensor in manifest.tensors.items():
        _check_tensor(manifest, name, tensor)
    for task_name, task in manifest.tasks.items():
        said.check_scores(manifest, task_name, task)
        _check_tiers(manifest, task_name, task)
        _check_codecs(manifest, task_name, task)
        said.check_fidelity(manifest, task_name, task)
        said.check_statistics(manifest, task_name, task)
        for name, entry in task.tensors.items():
            try:
                _check_entry(manifest, task, name, entry)
            except FormatError as error:
                raise FormatError(f"task {task_name!r}: {error}") from None
        own_names.check(manifest, task_name, task)
    lineage.check_parents(manifest)
    said.check_vectors(manifest)
    said.check_history(manifest)
    _check_claims(manifest)


# A section of zeros takes 4 bytes per chunk and stream, so some kilobytes could claim any size.
# Weights are packed to a fifth at most, causal masks and the like to a thousandth.
CLAIM_PER_BYTE = 1000
FREE_CLAIM = 4 << 30


def _check_claims(manifest: Manifest) -> None:
    """Refuse tensors of a size that their files cannot plausibly hold.

    They are the base's, where it is carried, and the tasks' own. What a task shares with the base
    is no larger than the base, and a referenced base is another model's files.
    """
    stems, claimed = [names.private_of(manifest.folder(task)) for task in manifest.tasks], 0
    if manifest.base.carried:
        stems.append(names.BASE)
        held = (t for t in manifest.tensors.values() if t.alias is None)
        claimed = sum(nbytes(tensor.dtype, tensor.shape) for tensor in held)
    for task_name, task in manifest.tasks.items():
        if task.adapter is not None:
            stems.append(names.adapter_of(manifest.folder(task_name)))
            own = task.adapter.tensors.values()
            claimed += sum(nbytes(factor.dtype, factor.shape) for factor in own)
        for name, entry in task.tensors.items():
            if entry.shape is not None and entry.kind != "adapted":
                base = manifest.tensors[name] if entry.kind in TIERS else None
                dtype = entry.dtype or (base.dtype if base else "U8")
                claimed += nbytes(dtype, entry.shape) - (nbytes(dtype, base.shape) if base else 0)
    files = names.by_stem(manifest.files)
    there = sum(manifest.files[path].bytes for stem in stems for path in files.get(stem, ()))
    if claimed > FREE_CLAIM + CLAIM_PER_BYTE * there:
        raise FormatError(
            f"the store claims {claimed >> 30} GiB of tensors in files of {there >> 10} KiB, which "
            "no weights are packed to"
        )


def _check_names(manifest: Manifest) -> None:
    for path in manifest.files:
        names.check_path(path, "file")
        if path == names.MANIFEST:
            raise FormatError("the manifest lists itself")
    for task_name, task in manifest.tasks.items():
        names.check_task_name(task_name)
        if names.folder_of(task_name) != task_name and manifest.version < VERSION_OF_VECTORS:
            raise FormatError(f"task {task_name!r} has such a name in an older store")
        _check_assets(manifest, task.assets)
        _check_beside(manifest, task, f"task {task_name!r}")
        weight_files.check(manifest, task, f"task {task_name!r}")
        kept_adapters.check(manifest, task_name, task)
        for name in task.tensors:
            names.check_tensor_name(name)
    names.check_distinct(manifest.tasks)
    lineage.check_folders(manifest)
    _check_assets(manifest, manifest.base.assets)
    _check_beside(manifest, manifest.base, "the base")
    weight_files.check(manifest, manifest.base, "the base")
    for digest in manifest.assets:
        if f"assets/{digest}" not in manifest.files:
            raise FormatError(f"asset {digest} has no file")
    for name in manifest.tensors:
        names.check_tensor_name(name)


def _check_beside(manifest: Manifest, model: Base | Task, label: str) -> None:
    """Check weights that lie beside a model's own, and what was left out."""
    newer = model.beside is not None or model.left_out is not None
    if newer and manifest.version < own_names.VERSION_OF_NAMES:
        raise FormatError(f"{label} has weights beside its own, in an older store")
    for path, digest in (model.beside or {}).items():
        names.check_beside_path(path)
        if digest not in manifest.assets:
            raise FormatError(f"{label} has weights {path!r} with a hash that is not listed")
        if path in (model.shards or {}):
            raise FormatError(f"{label} has the weight file {path!r} twice")


def _check_assets(manifest: Manifest, assets: Mapping[str, str]) -> None:
    for path, digest in assets.items():
        names.check_asset_path(path)
        if digest not in manifest.assets:
            raise FormatError(f"asset {path!r} has a hash that is not listed")


def _check_layout(name: str, dtype: str, shape: list[int]) -> None:
    if dtype not in ITEMSIZE:
        raise FormatError(f"tensor {name!r} has unknown dtype {dtype!r}")
    if len(shape) > 64 or nbytes(dtype, [n or 1 for n in shape]) > MAX_TENSOR_BYTES:
        raise FormatError(f"tensor {name!r} of shape {shape} is too large")


def _check_tensor(manifest: Manifest, name: str, tensor: Tensor) -> None:
    _check_layout(name, tensor.dtype, tensor.shape)
    if tensor.codec not in PLAIN_CODECS:
        raise UnknownCodec(tensor.codec, PLAIN_CODECS)
    if tensor.codec != plain_codec(tensor.dtype):
        raise FormatError(f"tensor {name!r}: codec {tensor.codec!r} does not fit {tensor.dtype}")
    if tensor.multitask is not None:
        if tensor.multitask not in MULTITASK_CODECS:
            raise UnknownCodec(tensor.multitask, MULTITASK_CODECS)
        fits = tensor.dtype in MASKED and (tensor.multitask != "rounded" or tensor.dtype == "F32")
        since = {"strides": VERSION_OF_TIERS, "deltas": VERSION_OF_DELTAS}.get(tensor.multitask, 1)
        if manifest.version < since:
            raise FormatError(f"tensor {name!r} is coded by {tensor.multitask}, in an older store")
        if not fits or tensor.alias is not None:
            raise FormatError(f"tensor {name!r} cannot have a multi-task part")
    if tensor.alias is not None:
        of = manifest.tensors.get(tensor.alias)
        same = of is not None and (of.dtype, of.shape, of.blake3) == (
            tensor.dtype,
            tensor.shape,
            tensor.blake3,
        )
        if of is None or of.alias is not None or not same:
            raise FormatError(f"tensor {name!r} is an alias of something else")


MEMBERS = {
    "exact": {"dtype", "shape", "codec"},
    "rest": {"dtype", "shape", "codec", "lower"},
    "mask": {"dtype", "shape", "ones", "lower"},
    "base": set(),
    "private": {"dtype", "shape", "reason"},
    "alias": {"of"},
    "adapted": {"dtype", "shape", "made"},
}


def _check_codecs(manifest: Manifest, name: str, task: Task) -> None:
    if task.codecs is None:
        return
    if manifest.version < VERSION_OF_TIERS:
        raise FormatError(f"task {name!r} has codecs, in a store of version {manifest.version}")
    known = CODECS_OF_TIERS.items() | OLDER_CODECS.items()
    if not task.codecs or not task.codecs.items() <= known:
        raise FormatError(f"task {name!r} codes its tiers by {task.codecs}")
    if "deltas" in task.codecs.values() and manifest.version < VERSION_OF_DELTAS:
        raise FormatError(f"task {name!r} is coded by deltas, in a store of version 1 to 5")


def _check_tiers(manifest: Manifest, name: str, task: Task) -> None:
    if task.tiers is None:
        if task.bits is not None:
            raise FormatError(f"task {name!r} has bits of a rest and no such tier")
        return
    if manifest.version < VERSION_OF_TIERS:
        raise FormatError(f"task {name!r} has tiers, in a store of version {manifest.version}")
    if task.tiers != [tier for tier in TIERS if tier in task.tiers] or not task.tiers:
        raise FormatError(f"task {name!r} has the tiers {task.tiers}, which build on nothing")
    if (task.bits is None) == ("rest" in task.tiers):
        raise FormatError(f"task {name!r} has a rest without its bits, or bits without a rest")


def _check_entry(manifest: Manifest, task: Task, name: str, entry: TaskTensor) -> None:
    base = manifest.tensors.get(name)
    for member in ("dtype", "shape", "of", "ones", "reason", "lower", "made", "codec"):
        if getattr(entry, member) is not None and member not in MEMBERS[entry.kind]:
            raise FormatError(f"tensor {name!r} is of kind {entry.kind!r} and has {member!r}")
    if entry.kind in TIERS:
        plain = () if entry.kind == "rest" else (entry.kind,)
        tiers = list[str](task.tiers or plain)
        if tiers[:1] != [entry.kind] or len(entry.lower or ()) != len(tiers) - 1:
            raise FormatError(f"tensor {name!r} of kind {entry.kind!r} does not fit the tiers")
    if entry.kind == "private":
        if entry.dtype is None or entry.shape is None:
            raise FormatError(f"private tensor {name!r} has no dtype or no shape")
        _check_layout(name, entry.dtype, entry.shape)
    elif entry.kind == "alias":
        of = task.tensors.get(entry.of or "")
        if of is None or of.kind == "alias" or of.blake3 != entry.blake3:
            raise FormatError(f"tensor {name!r} is an alias of something else")
    elif entry.kind == "adapted":
        _check_layout(name, entry.dtype or "", entry.shape or [])
        kept_adapters.check_made(manifest, task, name, entry)
    elif base is None:
        raise FormatError(f"tensor {name!r} is not in the base")
    elif entry.kind in ("mask", "rest"):
        if entry.kind == "mask" and (base.multitask is None or base.alias is not None):
            raise FormatError(f"tensor {name!r} has a mask and no multi-task part")
        if entry.kind == "rest" and (base.dtype not in MASKED or base.alias is not None):
            raise FormatError(f"tensor {name!r} cannot be coded against the base's")
        if entry.dtype is not None and entry.dtype not in MASKED:
            raise FormatError(f"tensor {name!r} cannot be cast to {entry.dtype!r}")
        if entry.codec is not None and (
            manifest.version < VERSION_OF_FACTORED
            or entry.codec != "factored"
            or not numel(base.shape)
        ):
            raise FormatError(f"tensor {name!r} cannot be coded by {entry.codec!r}")
        _check_rows(manifest, name, entry, base)
    elif entry.kind == "exact":
        if manifest.version < VERSION_OF_EXACT:
            raise FormatError(f"tensor {name!r} is exact, in a store of version 1")
        older = manifest.version < VERSION_OF_CUTS
        if (base.dtype not in MASKED and older) or base.alias is not None:
            raise FormatError(f"tensor {name!r} cannot be coded against the base's")
        if entry.dtype is not None and (older or not {entry.dtype, base.dtype} <= MASKED):
            raise FormatError(f"tensor {name!r} cannot be cast to {entry.dtype!r}")
        if entry.codec is not None:
            older = manifest.version < SINCE.get(entry.codec, VERSION + 1)
            empty = entry.codec == "low_rank" and not numel(base.shape)
            if older or empty or (entry.dtype or base.dtype) not in MASKED:
                raise FormatError(f"tensor {name!r} cannot be coded by {entry.codec!r}")
        _check_rows(manifest, name, entry, base)


def _check_rows(manifest: Manifest, name: str, entry: TaskTensor, base: Tensor) -> None:
    if entry.shape is not None:
        cut = manifest.version >= VERSION_OF_CUTS and entry.shape < base.shape
        _check_layout(name, entry.dtype or base.dtype, entry.shape)
        same = len(entry.shape) == len(base.shape) > 0 and entry.shape[1:] == base.shape[1:]
        if not same or (entry.shape[0] <= base.shape[0] and not cut):
            raise FormatError(f"tensor {name!r} grew from {base.shape} to {entry.shape}")
