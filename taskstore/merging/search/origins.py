"""The origins of a merge's models: folders, or a store."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from functools import partial
from pathlib import Path

from blake3 import blake3

from taskstore.errors import InputError
from taskstore.evaluation.bench import fingerprint
from taskstore.executors import threads
from taskstore.format.manifest import MAX_BYTES
from taskstore.format.manifest_file import is_store
from taskstore.format.names import MANIFEST
from taskstore.locations.base import PathLike
from taskstore.locations.files import read_regular
from taskstore.locations.hub import locate
from taskstore.locations.remote.addresses import parse
from taskstore.locations.remote.elsewhere import local, pinned
from taskstore.merging import driver, kinship
from taskstore.merging.driver import View, check_target
from taskstore.merging.from_store import inputs, merge_store
from taskstore.merging.methods import split
from taskstore.merging.options import MergeOptions
from taskstore.merging.report import MergeReport
from taskstore.merging.scratch import KeptVector
from taskstore.merging.training_runs import spread
from taskstore.models.family import Family, check_names, open_family
from taskstore.models.readers import lora
from taskstore.progress import Callback, silent
from taskstore.public import public
from taskstore.store import Store, as_checkpoint
from taskstore.store.store import opened


@public
def merge(
    base: Store | PathLike,
    models: Mapping[str, PathLike] | Sequence[str] | None,
    target: PathLike,
    options: MergeOptions | str,
    *,
    progress: Callback = silent,
) -> MergeReport:
    """Write one merged model to the folder `target`, which appears only when it is complete.

    `models` maps names to model folders, weight files, adapters or training runs. Of a store, given
    as `base`, they are names of its tasks; None: all of them. `options` may be the name of a merge
    method, with what it usually takes. Raises InputError for what cannot be merged, OutputError for
    a target that cannot be written.

    >>> models = {"roman": "family/roman", "spanish": "family/spanish"}
    >>> report = taskstore.merge("family/base", models, "merged", "ties")
    >>> report.method, report.models
    ('ties', ['roman', 'spanish'])
    >>> options = taskstore.MergeOptions("consensus", {"k": 2}, alpha=0.4)
    >>> taskstore.merge("numerals", None, "consensus", options).parameters
    1070464
    """
    chosen = MergeOptions(options) if isinstance(options, str) else options
    return origin_of(base, models).merge(Path(target), chosen, progress=progress)


def origin_of(
    base: Store | PathLike, models: Mapping[str, PathLike] | Sequence[str] | None
) -> Origin:
    """Return models by name, or those of a store; raises InputError for one as the other."""
    if isinstance(base, Store) or is_store(base):
        if isinstance(models, Mapping):
            raise InputError(
                f"{base} is a store: give the names of its tasks, or None for all of them"
            )
        return Stored(opened(base), models or ())
    if not isinstance(models, Mapping):
        raise InputError(
            f"{base} is no store: give the models as a dict, such as {{'legal': 'runs/22/final'}}"
        )
    return Folders(base, models)


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
        kept: KeptVector | None = None,
    ) -> MergeReport:
        """Write one model of those that are named (none: all) to the folder `target`.

        `kept` has the merged vector, or gets it.
        """
        merger = self._merger(names)
        return merger(target, options, progress=progress, section=section, kept=kept)

    @abstractmethod
    def opened(self, target: Path, options: MergeOptions) -> AbstractContextManager[Family]:
        """All of them, open together; files that are made for it lie beside `target`."""

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

    `notes` are for the report: what became of something that the models were taken from. `view`:
    what of them is merged; its repr names it for good.
    """

    def __init__(
        self,
        base: PathLike,
        models: Mapping[str, PathLike],
        notes: Mapping[str, str] | None = None,
        view: View | None = None,
    ) -> None:
        """Raises InputError for names that no task can have, and for what is not there."""
        check_names(models)
        self._base, self._notes, self._view = _found(base), notes, view
        self._models = {name: _found(model) for name, model in models.items()}
        self.names, self.inputs = sorted(self._models), [self._base, *self._models.values()]

    @property
    def count(self) -> int:
        return len(spread(self._models, "average")[0])

    def _merger(self, names: Sequence[str]) -> Callable[..., MergeReport]:
        chosen = {name: self._models[name] for name in names or self.names}
        view = self._view or nullcontext
        return partial(driver.merge, self._base, chosen, notes=self._notes, view=view)

    @contextmanager
    def opened(self, target: Path, options: MergeOptions) -> Iterator[Family]:
        models, _ = spread(self._models, split(options.method).method)
        opened = closing(open_family(self._base, models))
        with opened as own, (self._view or nullcontext)(own) as family:
            if not options.unrelated:
                kinship.check(family)
            yield family

    def key(self, names: Sequence[str]) -> str:
        models = {name: _fingerprint(self._models[name]) for name in sorted(names)}
        return repr((_fingerprint(self._base), models, *filter(None, [self._view])))

    def folder(self, name: str) -> Path | None:
        if self._view is not None:
            return None
        path = local(self._models[name])
        return path if path.is_dir() and lora.adapter_file(path) is None else None


def _found(model: PathLike) -> PathLike:
    """Where a model is: its path, or its address at the commit that it has now."""
    return locate(model)[0] if parse(model) is None else pinned(model)


def _fingerprint(model: PathLike) -> str:
    return fingerprint(model) if isinstance(model, Path) else str(model)


class Stored(Origin):
    """A store's tasks; `tasks` () is all of them."""

    def __init__(self, store: Store, tasks: Sequence[str] = ()) -> None:
        """Raises UnknownTask, or InputError for a store without tasks."""
        for task in tasks:
            store.check_task(task)
        if not store.tasks:
            raise InputError(f"the store {store.where} has no tasks that could be merged")
        self._store, self._tasks = store, list(tasks or store.tasks)
        self.names, self.inputs = sorted(self._tasks), inputs(store)

    def _merger(self, names: Sequence[str]) -> Callable[..., MergeReport]:
        return partial(merge_store, self._store, tasks=list(names or self._tasks))

    def opened(self, target: Path, options: MergeOptions) -> AbstractContextManager[Family]:
        executor = threads(options.jobs)
        return as_checkpoint.open_family(self._store, self._tasks, executor, target)

    def key(self, names: Sequence[str]) -> str:
        manifest = read_regular(
            self._store.path / MANIFEST, MAX_BYTES
        )  # it has the files' checksums
        return repr((blake3(manifest).hexdigest(), sorted(names)))
