"""Where the models of a merge come from: folders, or a packed family."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from blake3 import blake3

from taskstore.errors import InputError
from taskstore.evaluation.bench import fingerprint
from taskstore.format.names import MANIFEST
from taskstore.locations.base import PathLike
from taskstore.locations.hub import locate
from taskstore.merging.driver import check_target, merge
from taskstore.merging.from_store import inputs, merge_store
from taskstore.merging.options import MergeOptions
from taskstore.merging.report import MergeReport
from taskstore.merging.training_runs import spread
from taskstore.models.family import check_names
from taskstore.models.readers import lora
from taskstore.progress import Callback, silent
from taskstore.store import Store


class Origin(Protocol):
    """`names` are the models beside the base, in order."""

    @property
    def names(self) -> list[str]: ...

    @property
    def count(self) -> int:
        """Models that are merged; a training run is its checkpoints."""

    def check(self, target: Path, options: MergeOptions) -> None:
        """Raise TargetExists or OutputError unless the target may be written."""

    def merge(
        self,
        target: Path,
        options: MergeOptions,
        names: Sequence[str] = (),
        progress: Callback = silent,
        section: str = "",
    ) -> MergeReport:
        """Write one model of those that are named (none: all) to the folder `target`."""

    def key(self, names: Sequence[str]) -> str:
        """Names the base's weights and theirs; the same while no file changes."""

    def folder(self, name: str) -> Path | None:
        """The whole model as it lies there; None where it has to be made."""


class Folders:
    """Model folders, weight files, adapters and training runs by name.

    `notes` are for the report: what became of something that the models were taken from.
    """

    def __init__(
        self,
        base: PathLike,
        models: Mapping[str, PathLike],
        notes: Mapping[str, str] | None = None,
    ) -> None:
        """Raises InputError for names that are none, and for what is not there."""
        check_names(models)
        self._base = locate(base)[0]
        self._models = {name: locate(model)[0] for name, model in models.items()}
        self._notes = notes

    @property
    def names(self) -> list[str]:
        return sorted(self._models)

    @property
    def count(self) -> int:
        return len(spread(self._models, "average")[0])

    def check(self, target: Path, options: MergeOptions) -> None:
        check_target(target, options, [self._base, *self._models.values()])

    def merge(
        self,
        target: Path,
        options: MergeOptions,
        names: Sequence[str] = (),
        progress: Callback = silent,
        section: str = "",
    ) -> MergeReport:
        chosen = {name: self._models[name] for name in names or self.names}
        return merge(self._base, chosen, target, options, progress, self._notes, section)

    def key(self, names: Sequence[str]) -> str:
        models = {name: fingerprint(self._models[name]) for name in sorted(names)}
        return repr((fingerprint(self._base), models))

    def folder(self, name: str) -> Path | None:
        path = self._models[name]
        return path if path.is_dir() and lora.adapter_file(path) is None else None


class Stored:
    """A store's tasks; `tasks` () is all of them."""

    def __init__(self, store: Store, tasks: Sequence[str] = ()) -> None:
        """Raises UnknownTask, or InputError for a store without tasks."""
        for task in tasks:
            store.check_task(task)
        if not store.tasks:
            raise InputError(f"the store {store.path} has no tasks that could be merged")
        self._store, self._tasks = store, tasks

    @property
    def names(self) -> list[str]:
        return sorted(self._tasks or self._store.tasks)

    @property
    def count(self) -> int:
        return len(self.names)

    def check(self, target: Path, options: MergeOptions) -> None:
        check_target(target, options, inputs(self._store))

    def merge(
        self,
        target: Path,
        options: MergeOptions,
        names: Sequence[str] = (),
        progress: Callback = silent,
        section: str = "",
    ) -> MergeReport:
        chosen = list(names or self._tasks or self._store.tasks)
        return merge_store(self._store, target, options, chosen, progress, section)

    def key(self, names: Sequence[str]) -> str:
        manifest = (self._store.path / MANIFEST).read_bytes()  # it has the files' checksums
        return repr((blake3(manifest).hexdigest(), sorted(names)))

    def folder(self, name: str) -> Path | None:
        return None
