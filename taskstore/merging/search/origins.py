"""The origins of a merge's models: folders, or a store."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from blake3 import blake3

from taskstore.errors import InputError
from taskstore.evaluation.bench import fingerprint
from taskstore.format.manifest import MAX_BYTES
from taskstore.format.names import MANIFEST
from taskstore.locations.base import PathLike
from taskstore.locations.files import read_regular
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


class Origin(ABC):
    """Models that can be merged, several times and in parts.

    names    of the models beside the base, in order
    inputs   the paths that a merge reads
    """

    names: Sequence[str]
    inputs: Sequence[PathLike]

    @property
    def count(self) -> int:
        """The number of models that are merged; a training run counts as its checkpoints."""
        return len(self.names)

    def check(self, target: Path, options: MergeOptions) -> None:
        """Raise TargetExists or OutputError unless the target may be written."""
        check_target(target, options, self.inputs)

    def merge(
        self,
        target: Path,
        options: MergeOptions,
        names: Sequence[str] = (),
        progress: Callback = silent,
        section: str = "",
    ) -> MergeReport:
        """Write one model of those that are named (none: all) to the folder `target`."""
        return self._merger(names)(target, options, progress=progress, section=section)

    @abstractmethod
    def _merger(self, names: Sequence[str]) -> Callable[..., MergeReport]:
        """`merge` of those that are named (none: all)."""

    @abstractmethod
    def key(self, names: Sequence[str]) -> str:
        """Names the weights of the base and of these models; the same while no file changes."""

    def folder(self, name: str) -> Path | None:
        """The folder that holds the whole model; None: it has to be made."""
        return None


class Folders(Origin):
    """Model folders, weight files, adapters and training runs by name.

    `notes` are for the report: what became of something that the models were taken from.
    """

    def __init__(
        self,
        base: PathLike,
        models: Mapping[str, PathLike],
        notes: Mapping[str, str] | None = None,
    ) -> None:
        """Raises InputError for names that no task can have, and for what is not there."""
        check_names(models)
        self._base, self._notes = locate(base)[0], notes
        self._models = {name: locate(model)[0] for name, model in models.items()}
        self.names, self.inputs = sorted(self._models), [self._base, *self._models.values()]

    @property
    def count(self) -> int:
        return len(spread(self._models, "average")[0])

    def _merger(self, names: Sequence[str]) -> Callable[..., MergeReport]:
        chosen = {name: self._models[name] for name in names or self.names}
        return partial(merge, self._base, chosen, notes=self._notes)

    def key(self, names: Sequence[str]) -> str:
        models = {name: fingerprint(self._models[name]) for name in sorted(names)}
        return repr((fingerprint(self._base), models))

    def folder(self, name: str) -> Path | None:
        path = self._models[name]
        return path if path.is_dir() and lora.adapter_file(path) is None else None


class Stored(Origin):
    """A store's tasks; `tasks` () is all of them."""

    def __init__(self, store: Store, tasks: Sequence[str] = ()) -> None:
        """Raises UnknownTask, or InputError for a store without tasks."""
        for task in tasks:
            store.check_task(task)
        if not store.tasks:
            raise InputError(f"the store {store.path} has no tasks that could be merged")
        self._store, self._tasks = store, list(tasks or store.tasks)
        self.names, self.inputs = sorted(self._tasks), inputs(store)

    def _merger(self, names: Sequence[str]) -> Callable[..., MergeReport]:
        return partial(merge_store, self._store, tasks=list(names or self._tasks))

    def key(self, names: Sequence[str]) -> str:
        manifest = read_regular(
            self._store.path / MANIFEST, MAX_BYTES
        )  # it has the files' checksums
        return repr((blake3(manifest).hexdigest(), sorted(names)))
