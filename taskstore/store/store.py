"""An open store, and every model in it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from taskstore import extras
from taskstore.errors import InputError
from taskstore.executors import threads
from taskstore.format.names import MANIFEST, folder_of
from taskstore.locations.base import PathLike
from taskstore.progress import Callback, silent
from taskstore.store import summary
from taskstore.store.contents import StoreContents
from taskstore.store.summary import Summary

if TYPE_CHECKING:
    import torch

    from taskstore.devices import Device


def open(path: PathLike, *, base: PathLike | None = None) -> Store:
    """Open a store folder. `base` says where a base is that the store only references.

    Reads the manifest alone. Raises FormatError, NewerVersion or ChecksumMismatch.
    """
    return Store(Path(path), base)


class Store(StoreContents):
    """One packed family. Thread-safe: every call opens what it reads."""

    def __repr__(self) -> str:
        return f"<taskstore.Store {str(self.path)!r}: {len(self.tasks)} tasks>"

    def summary(self) -> Summary:
        """Return sizes, ratios and densities, from the manifest alone."""
        return summary.of(self.manifest, (self.path / MANIFEST).stat().st_size)

    def tensor(self, task: str | None, name: str, *, tier: str | None = None) -> torch.Tensor:
        """Rebuild one tensor on the CPU, checked; raises InputError for an unknown name."""
        self.warn_approximate(task, tier, 1)
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
        """Rebuild a task's tensors (None: the base's) on a device, all or `names`, checked.

        They have the names that the fine-tune's own files give them.

        `tier` is "mask", "rest" or "exact", None the best that the task has (InputError where it
        does not have it).
        Tensors that share their bytes in the task share their memory here too. Beside what ends
        on the device only blocks are in memory. Warns (ApproximationWarning) once of a task that
        `fidelity` grades C or cannot grade. Raises DeviceError where the device is missing or too
        small.
        """
        extras.need("state_dict", "torch")
        from taskstore.store.to_torch import load

        self.warn_approximate(task, tier, 1)
        executor = threads(jobs)
        with self.open_base(executor) as base, self.reader(task, base, tier) as reader:
            unknown = [name for name in names or () if name not in reader.own_tensors]
            if unknown:
                raise InputError(f"{reader.label} has no tensor {unknown[0]!r}")
            aliases = self._aliases(task)
            wanted = list(reader.own_tensors if names is None else names)
            return load(reader, wanted, aliases, executor, progress, device)

    def load_model(
        self,
        task: str | None,
        *,
        tier: str | None = None,
        device: Device = "cpu",
        dtype: torch.dtype | str | None = None,
        trust_remote_code: bool = False,
        jobs: int | None = None,
        progress: Callback = silent,
        **options: Any,
    ) -> Any:
        """Load a task (None: the base) as a transformers model, of the class its config names.

        The model is what `from_pretrained` makes of the unpacked folder. `dtype` None is "auto":
        the config's, but for modules that transformers keeps in fp32; "stored" keeps every tensor
        in the dtype that it has in the store. `options` go to `from_pretrained`. Only classes of
        transformers itself are built, and no hub is asked; `trust_remote_code` also runs the code
        that lies in the store or that its config names. Raises MissingExtra without transformers,
        InputError where it does not know the class or cannot build it, DeviceError. The model has
        the task's `fidelity` as `taskstore_fidelity`; warns as `state_dict` does.
        """
        extras.need("load_model", "transformers", "torch")
        from taskstore import devices
        from taskstore.locations.scratch import scratch
        from taskstore.models import live
        from taskstore.store.catalog import label_of

        where = devices.resolve(device)
        self.warn_approximate(task, tier, 1)
        with scratch(self.path, small=True) as written:
            folder = self.write_assets(task, written)
            trust = trust_remote_code
            cls, config = live.model_class(folder, label_of(task), trust_remote_code=trust)
            state = self.state_dict(task, tier=tier, device=where, jobs=jobs, progress=progress)
            name = task or self.manifest.base.name
            model = live.build(
                cls, config, folder, state, where, dtype, options, name, trust_remote_code=trust
            )
        model.taskstore_fidelity = self.fidelity(task, tier)
        return model

    def _aliases(self, task: str | None) -> dict[str, str]:
        if task is None:
            return {n: t.alias for n, t in self.manifest.tensors.items() if t.alias}
        model = self.manifest.tasks[task]
        names = (model.names or {}).items()
        own = {s.of[0]: n for n, s in names if len(s.of) == 1 and s.start is None}
        return {own.get(n, n): own.get(e.of, e.of) for n, e in model.tensors.items() if e.of}

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
        """Write a task (None: the base) as a Hugging Face folder; see `store.unpack.unpack`."""
        from taskstore.store.unpack import UnpackOptions, unpack

        options = UnpackOptions(tier, overwrite, shard_bytes, threads(jobs))
        return unpack(self, {"": task}, Path(target), options, progress)

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
        from taskstore.store.unpack import UnpackOptions, unpack

        options = UnpackOptions(tier, overwrite, shard_bytes, threads(jobs))
        models = {folder_of(task): task for task in self.tasks}
        return unpack(self, models, Path(target), options, progress)
