"""Which sections a store must hold, as the manifest has it: one source for writer and reader."""

from __future__ import annotations

from taskstore.format.dtypes import ITEMSIZE, exact_codec, numel, plain_codec
from taskstore.format.manifest import TIERS, Manifest, Task, Tensor
from taskstore.format.section import Layout


def base_layout(tensor: Tensor, chunk: int) -> Layout:
    return Layout(tensor.codec, numel(tensor.shape), ITEMSIZE[tensor.dtype], chunk)


def base_layouts(manifest: Manifest) -> dict[str, Layout]:
    """Sections of base*.safetensors."""
    return {
        name: base_layout(tensor, manifest.chunk)
        for name, tensor in manifest.tensors.items()
        if tensor.alias is None and manifest.base.carried
    }


def multitask_layouts(manifest: Manifest) -> dict[str, Layout]:
    """Sections of multitask*.safetensors."""
    return {
        name: Layout(t.multitask, numel(t.shape), ITEMSIZE[t.dtype], manifest.chunk)
        for name, t in manifest.tensors.items()
        if t.multitask is not None
    }


def mask_layouts(manifest: Manifest, task: Task) -> dict[str, Layout]:
    """Sections of a task's masks.safetensors."""
    return {
        name: Layout(task.codec("mask", "bits"), numel(base.shape), 1, manifest.chunk)
        for name, base in _with(manifest, task, "mask").items()
    }


def rest_layouts(manifest: Manifest, task: Task) -> dict[str, Layout]:
    """Sections of a task's rest.safetensors: what the tier below misses, as float32 vectors."""
    return {
        name: Layout("levels", numel(base.shape), 4, manifest.chunk)
        for name, base in _with(manifest, task, "rest").items()
    }


def exact_layouts(manifest: Manifest, task: Task) -> dict[str, Layout]:
    """Sections of a task's exact.safetensors: the base's rows of its tensors, bit for bit."""
    layouts = {}
    for name, base in _with(manifest, task, "exact").items():
        dtype = task.tensors[name].dtype or base.dtype
        n = numel(base.shape)
        codec = task.codec("exact", exact_codec(dtype))
        layouts[name] = Layout(codec, n, ITEMSIZE[dtype], manifest.chunk)
    return layouts


def _with(manifest: Manifest, task: Task, tier: str) -> dict[str, Tensor]:
    """The base's tensors that a task has in a tier."""
    return {name: manifest.tensors[name] for name in task.tensors if tier in task.rungs(name)}


def private_layouts(manifest: Manifest, task: Task) -> dict[str, Layout]:
    """Sections of a task's private.safetensors: whole tensors, and rows past the base's."""
    layouts = {}
    for name, entry in task.tensors.items():
        if entry.kind == "private":
            assert entry.dtype is not None and entry.shape is not None
            dtype, n = entry.dtype, numel(entry.shape)
        elif entry.kind in TIERS and entry.shape is not None:
            base = manifest.tensors[name]
            dtype, n = entry.dtype or base.dtype, numel(entry.shape) - numel(base.shape)
        else:
            continue
        layouts[name] = Layout(plain_codec(dtype), n, ITEMSIZE[dtype], manifest.chunk)
    return layouts
