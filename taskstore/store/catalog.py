"""What a store says of each rebuilt tensor: dtype, shape, checksum, the tiers that rebuild it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from taskstore.format.dtypes import ITEMSIZE, numel
from taskstore.format.manifest import TIERS, Base, Manifest, Task, TaskTensor
from taskstore.format.members import Adapter
from taskstore.format.rules.own_names import own_layout
from taskstore.locations import ownership
from taskstore.locations.ownership import Written
from taskstore.locations.publish import Foreign


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


def foreign_to(manifest: Manifest) -> Foreign:
    """Return a test for what a folder holds beside models that `unpack` wrote.

    Such a model has a note, but for one that is as it was before it was packed: of that, each file
    must be the store's to the last bit.
    """
    adapters = [task.adapter for task in manifest.tasks.values() if task.adapter is not None]
    packed: list[Base | Task | Adapter] = [manifest.base, *manifest.tasks.values(), *adapters]
    models = [_listed(manifest, model) for model in packed]

    def not_of_model(folder: Path) -> list[str]:
        note = ownership.read_note(folder)
        if note is not None:
            return ownership.foreign(folder, note)
        return min((ownership.foreign(folder, m, whole=True) for m in models), key=len)

    def not_of_models(folder: Path) -> list[str]:
        found, inside = not_of_model(folder), sorted(folder.iterdir())
        models = [path for path in inside if path.is_dir() and not path.is_symlink()]
        below = [f"{model.name}/{name}" for model in models for name in not_of_model(model)]
        beside = [path.name for path in inside if path not in models]
        return min(found, [*beside, *below], key=len)

    return not_of_models


def _listed(manifest: Manifest, model: Base | Task | Adapter) -> dict[str, Written]:
    """List the files of a model that a store gives back as they were."""
    files = dict(model.assets)
    if isinstance(model, Base | Task):
        files |= {**(model.beside or {}), **(model.index or {})}
    return {
        **{p: Written(bytes=manifest.assets[d].bytes, blake3=d) for p, d in files.items()},
        **{p: Written(bytes=s.bytes, blake3=s.blake3) for p, s in (model.shards or {}).items()},
    }
