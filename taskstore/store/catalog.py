"""What a store says of each rebuilt tensor: dtype, shape, checksum, the tiers that rebuild it."""

from __future__ import annotations

from dataclasses import dataclass

from taskstore.format.dtypes import ITEMSIZE, numel
from taskstore.format.manifest import TIERS, Manifest, Task, TaskTensor
from taskstore.format.rules.own_names import own_layout


@dataclass(frozen=True)
class Rebuilt:
    """What a rebuilt tensor will be: safetensors dtype, shape, checksum of its bytes."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    blake3: str

    @property
    def nbytes(self) -> int:
        return numel(self.shape) * ITEMSIZE[self.dtype]


def label_of(task: str | None) -> str:
    """Name a model in words; None is the base."""
    return "the base" if task is None else f"task {task!r}"


def resolved(task: Task, name: str) -> tuple[str, TaskTensor]:
    """Return the tensor that an alias stands for; another tensor is returned itself."""
    of = task.tensors[name].of or name
    return of, task.tensors[of]


def tiers_up_to(task: Task, name: str, tier: str | None) -> tuple[str, ...]:
    """Return the tiers that rebuild a tensor of a task, up to `tier` (None: all that it has)."""
    every = task.tiers_of(name)
    return every if tier is None else tuple(r for r in every if TIERS.index(r) <= TIERS.index(tier))


def rebuilt_tensors(
    manifest: Manifest, task: str | None, tier: str | None = None
) -> dict[str, Rebuilt]:
    """Return the tensors of a task, or of the base (None), by name; `tier` None: the best."""
    base = manifest.tensors
    if task is None:
        return {n: Rebuilt(n, t.dtype, tuple(t.shape), t.blake3) for n, t in base.items()}
    found = {}
    for name in manifest.tasks[task].tensors:
        of, source = resolved(manifest.tasks[task], name)
        inherited = base.get(of)
        dtype = source.dtype or (inherited.dtype if inherited else "")
        shape = source.shape if source.shape is not None else (inherited.shape if inherited else [])
        digests = [*(source.lower or ()), source.blake3]
        blake3 = digests[max(0, len(tiers_up_to(manifest.tasks[task], of, tier)) - 1)]
        found[name] = Rebuilt(name, dtype, tuple(shape), blake3)
    return found


def own_tensors(manifest: Manifest, task: str | None) -> dict[str, Rebuilt]:
    """Return the same tensors as the model's own files name and cut them, without checksums."""
    tensors = rebuilt_tensors(manifest, task)
    if task is None or not (names := manifest.tasks[task].names):
        return tensors
    gone = {of for made in names.values() for of in made.of}
    found = {name: tensor for name, tensor in tensors.items() if name not in gone}
    for name, made in names.items():
        dtype, shape = own_layout(manifest, manifest.tasks[task], made)
        found[name] = Rebuilt(name, dtype, tuple(shape), "")
    return found
