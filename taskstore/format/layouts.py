"""List the sections that a store must hold by its manifest: one source for writer and reader."""

from __future__ import annotations

from taskstore.format.dtypes import ITEMSIZE, numel, plain_codec
from taskstore.format.manifest import TIERS, Manifest, Task, Tensor
from taskstore.format.section import Layout


def base_layout(tensor: Tensor, chunk: int) -> Layout:
    return Layout(tensor.codec, numel(tensor.shape), ITEMSIZE[tensor.dtype], chunk)


def base_layouts(manifest: Manifest) -> dict[str, Layout]:
    """List the sections of base*.safetensors."""
    return {
        name: base_layout(tensor, manifest.chunk)
        for name, tensor in manifest.tensors.items()
        if tensor.alias is None and manifest.base.carried
    }


def multitask_layouts(manifest: Manifest) -> dict[str, Layout]:
    """List the sections of multitask*.safetensors."""
    return {
        name: Layout(t.multitask, numel(t.shape), ITEMSIZE[t.dtype], manifest.chunk)
        for name, t in manifest.tensors.items()
        if t.multitask is not None
    }


def adapter_layouts(manifest: Manifest, task: Task) -> dict[str, Layout]:
    """List the sections of adapter.safetensors: an adapter's own tensors, by its names."""
    tensors = task.adapter.tensors if task.adapter is not None else {}
    return {
        name: Layout(plain_codec(t.dtype), numel(t.shape), ITEMSIZE[t.dtype], manifest.chunk)
        for name, t in tensors.items()
    }


def private_layouts(manifest: Manifest, task: Task) -> dict[str, Layout]:
    """List the sections of private.safetensors: whole tensors, and rows past the base's."""
    layouts = {}
    for name, entry in task.tensors.items():
        if entry.kind == "private":
            assert entry.dtype is not None and entry.shape is not None
            dtype, n = entry.dtype, numel(entry.shape)
        elif entry.kind in TIERS and entry.shape is not None:
            base = manifest.tensors[name]
            dtype, n = entry.dtype or base.dtype, numel(entry.shape) - numel(base.shape)
            if n <= 0:
                continue  # a vocabulary that was cut
        else:
            continue
        layouts[name] = Layout(plain_codec(dtype), n, ITEMSIZE[dtype], manifest.chunk)
    return layouts
