"""An open store: what it holds, and every model in it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from taskstore import summary
from taskstore.errors import InputError, UnknownTask
from taskstore.executors import default_jobs
from taskstore.format import manifest as manifests
from taskstore.format import names as filenames
from taskstore.format.names import MANIFEST, of_stem
from taskstore.format.validate import check
from taskstore.format.weight_files import digests_of
from taskstore.locations.base import PathLike
from taskstore.progress import Callback, silent
from taskstore.summary import Summary

if TYPE_CHECKING:
    import torch

    from taskstore.devices import Device
    from taskstore.loader import BaseSource, ModelReader


def open(path: PathLike, *, base: PathLike | None = None) -> Store:
    """Open a store folder. `base` says where a base is that the store only references.

    Reads the manifest alone. Raises FormatError, NewerVersion or ChecksumMismatch.
    """
    return Store(Path(path), base)


class Store:
    """One packed family. Thread-safe: every call opens what it reads."""

    def __init__(self, path: Path, base: PathLike | None = None) -> None:
        self.path = path
        self.manifest = manifests.read(path)
        check(self.manifest)
        self.base_path = base

    def __repr__(self) -> str:
        return f"<taskstore.Store {str(self.path)!r}: {len(self.tasks)} tasks>"

    @property
    def tasks(self) -> list[str]:
        """Names of the tasks, sorted."""
        return list(self.manifest.tasks)

    def summary(self) -> Summary:
        """Sizes, ratios, densities."""
        return summary.of(self.manifest, (self.path / MANIFEST).stat().st_size)

    def check_task(self, task: str) -> None:
        """Raise UnknownTask, with the nearest name, unless there is such a task."""
        if task not in self.manifest.tasks:
            raise UnknownTask(task, self.tasks)

    def tiers(self, task: str) -> list[str]:
        """What is kept of a task: "mask", "rest", "exact", each building on those before."""
        self.check_task(task)
        return list(self.manifest.tasks[task].all_tiers)

    def check_exact(self, task: str) -> None:
        """Raise InputError unless every tensor of the task is the original's, bit for bit."""
        there = self.tiers(task)
        if there and "exact" not in there:
            raise InputError(
                f"task {task!r} is not exact, its best tier is {there[-1]!r}; only a store packed "
                "with --tiers exact, or mask,exact, gives the originals back"
            )

    @contextmanager
    def open_base(self, jobs: int = 1) -> Iterator[BaseSource]:
        """The base's bits, from the store or from the folder that it references."""
        from taskstore.loader import CarriedBase, ReferencedBase
        from taskstore.reference import open_base

        base: BaseSource
        if self.manifest.base.carried:
            base = CarriedBase(self.path, self.manifest)
        else:
            checkpoint = open_base(self.manifest, self.base_path, jobs)
            base = ReferencedBase(checkpoint, self.manifest.chunk)
        try:
            yield base
        finally:
            base.close()

    @contextmanager
    def reader(
        self, task: str | None, base: BaseSource, tier: str | None = None
    ) -> Iterator[ModelReader]:
        """One model's tensors; `task` None is the base, `tier` None the best that it has."""
        from taskstore.loader import ModelReader

        if task is not None:
            self.check_task(task)
        reader = ModelReader(self.path, self.manifest, task, base, tier)
        try:
            yield reader
        finally:
            reader.close()

    def tensor(self, task: str | None, name: str, *, tier: str | None = None) -> torch.Tensor:
        """One rebuilt tensor on the CPU, checked; raises InputError for an unknown name."""
        return self.state_dict(task, names=[name], tier=tier)[name]

    def state_dict(
        self,
        task: str | None,
        *,
        names: Sequence[str] | None = None,
        tier: str | None = None,
        device: Device = "cpu",
        jobs: int | None = None,
        progress: Callback = silent,
    ) -> dict[str, torch.Tensor]:
        """All tensors of a task (None: of the base) on a device, or those of `names`, checked.

        `tier` is "mask", "rest" or "exact", None the best that the task has (InputError where it
        does not have it).
        Tensors that share their bytes in the task share their memory here too. Beside what ends
        on the device only blocks are in memory. Raises DeviceError where the device is missing
        or too small.
        """
        from taskstore.tensors import load

        jobs = jobs or default_jobs()
        with self.open_base(jobs) as base, self.reader(task, base, tier) as reader:
            unknown = [name for name in names or () if name not in reader.tensors]
            if unknown:
                raise InputError(f"{reader.label} has no tensor {unknown[0]!r}")
            aliases = self._aliases(task)
            wanted = list(reader.tensors if names is None else names)
            return load(reader, wanted, aliases, jobs, progress, device)

    def load_model(
        self,
        task: str | None,
        *,
        tier: str | None = None,
        device: Device = "cpu",
        dtype: torch.dtype | None = None,
        jobs: int | None = None,
        progress: Callback = silent,
        **options: Any,
    ) -> Any:
        """A transformers model of a task (None: of the base), of the class its config names.

        `dtype` None keeps the stored bits; `options` go to `from_pretrained`. Raises MissingExtra
        without transformers, InputError where it does not know the class, DeviceError.
        """
        from taskstore import devices, models
        from taskstore.loader import label_of

        where = devices.resolve(device)
        with TemporaryDirectory(prefix="taskstore-") as scratch:
            folder = self.write_assets(task, scratch)
            cls, config = models.model_class(folder, label_of(task))
            state = self.state_dict(task, tier=tier, device=where, jobs=jobs, progress=progress)
            return models.build(cls, config, folder, state, where, dtype, options)

    def write_assets(self, task: str | None, target: PathLike) -> Path:
        """Write a model's config, tokenizer and templates into a folder, without weights."""
        from taskstore.model_folder import write_assets

        if task is not None:
            self.check_task(task)
        Path(target).mkdir(parents=True, exist_ok=True)
        beside: Mapping[str, Path] = {}
        if task is None and not self.manifest.base.carried:
            with self.open_base() as base:
                beside = base.assets
        write_assets(self.path, self.manifest, task, beside, Path(target))
        return Path(target)

    def _aliases(self, task: str | None) -> dict[str, str]:
        if task is None:
            return {n: t.alias for n, t in self.manifest.tensors.items() if t.alias}
        return {n: e.of for n, e in self.manifest.tasks[task].tensors.items() if e.of}

    def files_of(self, *tasks: str | None, tier: str | None = None) -> list[str]:
        """Files of the store that these models (None: the base) are rebuilt from, up to a tier."""
        stems, assets = {filenames.BASE: None}, set[str]()
        for task in tasks:
            model = self.manifest.base if task is None else self.manifest.tasks[task]
            needed = {*model.assets.values(), *digests_of(model)}
            assets |= {f"assets/{digest}" for digest in needed}
            if task is not None:
                stems |= dict.fromkeys(filenames.stems_up_to(tier, task))
        weights = [p for stem in stems for p in of_stem(stem, self.manifest.files)]
        return [*weights, *sorted(assets)]

    def unpack(
        self,
        task: str | None,
        target: PathLike,
        *,
        tier: str | None = None,
        overwrite: bool = False,
        jobs: int | None = None,
        shard_bytes: int | None = None,
        progress: Callback = silent,
    ) -> Path:
        """Write a task (None: the base) as a Hugging Face folder; see `unpacking.unpack`."""
        from taskstore.unpacking import unpack

        return unpack(self, {"": task}, Path(target), tier, overwrite, jobs, shard_bytes, progress)

    def unpack_all(
        self,
        target: PathLike,
        *,
        tier: str | None = None,
        overwrite: bool = False,
        jobs: int | None = None,
        shard_bytes: int | None = None,
        progress: Callback = silent,
    ) -> Path:
        """Write every task to a folder of its name below `target`."""
        from taskstore.unpacking import unpack

        tasks: dict[str, str | None] = {task: task for task in self.tasks}
        return unpack(self, tasks, Path(target), tier, overwrite, jobs, shard_bytes, progress)
