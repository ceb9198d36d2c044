"""Read a store's manifest, and open its parts when they are asked for."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from taskstore.errors import (
    ApproximationWarning,
    ChangedMeanwhile,
    FormatError,
    InputError,
    UnknownTask,
)
from taskstore.executors import Executor, Threads
from taskstore.format import manifest as manifests
from taskstore.format import manifest_file
from taskstore.format import names as filenames
from taskstore.format.digests import check_files
from taskstore.format.fidelity import EXACT, Fidelity, of_task
from taskstore.format.names import by_stem
from taskstore.format.rules import kept_adapters, lineage
from taskstore.format.weight_files import digests_of
from taskstore.locations import ownership
from taskstore.locations.base import PathLike
from taskstore.locations.leases import Lease
from taskstore.locations.publish import recover
from taskstore.locations.remote import mirror
from taskstore.locations.shared import SharedFolder

if TYPE_CHECKING:
    from taskstore.store.base import BaseSource
    from taskstore.store.rebuild import ModelReader


ONE = Threads(1)


def _taken(path: Path) -> tuple[manifests.Manifest, str, Lease]:
    """Read the manifest of a folder; for a moment it has no name while it is replaced."""
    recover(path)
    try:
        return manifest_file.take(path)
    except FormatError as error:
        if not isinstance(error.__context__, OSError):
            raise
    recover(path)
    return manifest_file.take(path)


def files_of(
    manifest: manifests.Manifest, *tasks: str | None, tier: str | None = None
) -> list[str]:
    """List the files that models of a manifest are rebuilt from; see `StoreContents.files_of`."""
    stems, assets = {filenames.BASE: None}, set[str]()
    for task in tasks:
        model = manifest.base if task is None else manifest.tasks[task]
        beside = (model.beside or {}).values()
        needed = {*model.assets.values(), *beside, *digests_of(model)}
        if isinstance(model, manifests.Task) and model.adapter is not None:
            needed |= kept_adapters.digests_of(model.adapter)
        assets |= {f"assets/{digest}" for digest in needed}
        if task is not None:
            stems |= dict.fromkeys(filenames.stems_up_to(tier, manifest.folder(task)))
            stems |= dict.fromkeys(_stems_of_parents(manifest, task, tier))
    files = by_stem(manifest.files)
    weights = [path for stem in stems for path in files.get(stem, ())]
    return [*weights, *sorted(assets)]


def _stems_of_parents(manifest: manifests.Manifest, task: str, tier: str | None) -> list[str]:
    """List the stems of other tasks that a task is rebuilt from, up to a tier."""
    tasks = manifest.tasks
    above = lineage.parents(tasks, task) if tier in (None, "exact") else ()
    return [
        filenames.stem_of(one, manifest.folder(parent))
        for parent in above
        for one in tasks[parent].all_tiers
    ]


def _as_listed(manifest: manifests.Manifest) -> dict[str, ownership.Written]:
    return {
        path: ownership.Written(bytes=file.bytes, blake3=file.blake3)
        for path, file in manifest.files.items()
    }


def _same_version(
    kind: type[StoreContents], where: PathLike, base: PathLike | None, version: str
) -> StoreContents:
    found = kind(where, base)
    if found.version != version:
        raise ChangedMeanwhile(f"{where} was changed by another taskstore; run the command again")
    return found


class StoreContents:
    """A store's manifest and the files of its models; every call opens what it reads.

    Those files stay until the store is closed, or collected, whatever writers do meanwhile.

    version   the checksum of the manifest: another one after every change
    where     its path, or its address
    path      its folder on this machine; of a store elsewhere it has what was fetched of it
    """

    def __init__(self, path: PathLike, base: PathLike | None = None) -> None:
        address = mirror.address_of(path)
        self.where: PathLike = str(address) if address else Path(path)
        self.path, source = mirror.newest(address) if address else (Path(path), None)
        self.location: SharedFolder = SharedFolder(self.path)
        self.manifest, self.version, self._lease = _taken(self.path)
        if address and source:
            listed = _as_listed(self.manifest)
            self.location = mirror.Mirror(self.path, source, address, listed)
        self.base_path = base
        self._warned: set[tuple[str | None, str | None]] = set()

    def __reduce__(self) -> Any:
        """Another process opens the same version at the same path."""
        where = self.where if self.is_elsewhere else os.path.abspath(self.path)
        base = os.path.abspath(self.base_path) if self.base_path is not None else None
        return _same_version, (type(self), where, base, self.version)

    @property
    def name(self) -> str:
        """How it is called: after its last folder, wherever that is."""
        return os.path.basename(self.where if self.is_elsewhere else os.path.realpath(self.path))

    @property
    def is_elsewhere(self) -> bool:
        """Whether it is at an address, and not on this machine."""
        return isinstance(self.location, mirror.Mirror)

    def close(self) -> None:
        """Let writers remove the files that only this version of the store needs."""
        self._lease.release()

    @property
    def tasks(self) -> list[str]:
        """Names of the tasks, sorted."""
        return list(self.manifest.tasks)

    def check_task(self, task: str) -> None:
        """Raise UnknownTask, with the nearest name, unless there is such a task."""
        if task not in self.manifest.tasks:
            raise UnknownTask(task, self.tasks)

    def tiers(self, task: str) -> list[str]:
        """Return the tiers of a task: "mask", "rest", "exact", each building on those before."""
        self.check_task(task)
        return list(self.manifest.tasks[task].all_tiers)

    def fidelity(self, task: str | None, tier: str | None = None) -> Fidelity:
        """Say how near a task is to its fine-tune, rebuilt up to a tier (None: its best).

        The base (task None) is exact. Raises as `check_tier` does.
        """
        self.check_tier(task, tier)
        return EXACT if task is None else of_task(self.manifest.tasks[task], tier)

    def warn_approximate(self, task: str | None, tier: str | None, depth: int) -> None:
        """Warn once of a task that is of the worst grade, or was not measured.

        `depth`: calls between this one and the user's.
        """
        found = self.fidelity(task, tier)
        if not found.is_safe and (task, tier) not in self._warned:
            self._warned.add((task, tier))
            warnings.warn(
                f"task {task!r} of {self.where} is {found.words}; measure it before you rely on it "
                '(taskstore.evaluate), or pack it with tiers="auto" or tiers="exact"',
                ApproximationWarning,
                stacklevel=depth + 2,
            )

    def check_tier(self, task: str | None, tier: str | None) -> None:
        """Raise unless there is such a task (None: the base) with that tier (None: any)."""
        there = self.tiers(task) if task is not None else []
        if task is not None and tier is not None and tier not in there:
            raise InputError(
                f"task {task!r} has no tier {tier!r}; it has {' and '.join(there) or 'none'}"
            )

    def check_exact(self, task: str) -> None:
        """Raise InputError unless every tensor of the task is the original's, bit for bit."""
        there = self.tiers(task)
        if there and "exact" not in there:
            raise InputError(
                f"task {task!r} is not exact, its best tier is {there[-1]!r}; only a store packed "
                'with tiers="exact", or mask,exact, gives the originals back'
            )

    def check_unchanged(self) -> None:
        """Raise ChangedMeanwhile where another writer has replaced the store since it was read."""
        here = self.location
        path = mirror.newest(here.address)[0] if isinstance(here, mirror.Mirror) else self.path
        if _taken(path)[1] != self.version:
            raise ChangedMeanwhile(
                f"{self.where} was changed by another taskstore since it was read; run the command "
                "again"
            )

    @contextmanager
    def as_it_was(self) -> Iterator[None]:
        """Raise ChangedMeanwhile for what fails in the block because the store was replaced."""
        try:
            yield
        except (FormatError, OSError):
            with suppress(FormatError):
                self.check_unchanged()
            raise

    @contextmanager
    def open_base(self, executor: Executor = ONE) -> Iterator[BaseSource]:
        """Open the base, in the store or in the folder that it references."""
        from taskstore.store.base import CarriedBase, ReferencedBase, open_base

        with self.as_it_was(), ExitStack() as stack:
            if self.manifest.base.carried:
                self.have(self.files_of(None))
                carried = CarriedBase(self.location, self.manifest)
                yield stack.enter_context(closing(carried))
            else:
                checkpoint = open_base(self.manifest, self.base_path, executor)
                referenced = ReferencedBase(checkpoint, self.manifest.chunk)
                yield stack.enter_context(closing(referenced))

    @contextmanager
    def reader(
        self, task: str | None, base: BaseSource, tier: str | None = None
    ) -> Iterator[ModelReader]:
        """Open one model; `task` None is the base, `tier` None the best that the task has."""
        from taskstore.store.rebuild import ModelReader

        self.check_tier(task, tier)
        if self.is_elsewhere:
            self.have(self.files_of(task, tier=tier))
        with (
            self.as_it_was(),
            closing(ModelReader(self.location, self.manifest, task, base, tier)) as opened,
        ):
            yield opened

    def check_files(
        self, paths: Iterable[str], executor: Executor, stopped: Callable[[], bool] = bool
    ) -> None:
        """Raise FormatError or ChecksumMismatch unless these files are the recorded ones."""
        paths = list(paths)
        with self.as_it_was():
            self.have(paths)
            check_files(self.path, self.manifest.files, paths, executor, stopped)

    def have(self, paths: Iterable[str]) -> None:
        """Fetch files of a store that lies elsewhere, where they are not here yet.

        Raises FormatError, ChecksumMismatch or OSError.
        """
        if isinstance(self.location, mirror.Mirror):
            self.location.have(paths)

    def files_of(self, *tasks: str | None, tier: str | None = None) -> list[str]:
        """List the files that these models (None: the base) are rebuilt from, up to a tier."""
        return files_of(self.manifest, *tasks, tier=tier)

    def write_assets(self, task: str | None, target: PathLike) -> Path:
        """Write a model's config, tokenizer and templates into a folder, without weights.

        Raises TargetExists where one of them is there already.
        """
        from taskstore.locations.publish import check_space
        from taskstore.store.assets import write_assets
        from taskstore.store.summary import assets_bytes

        if task is not None:
            self.check_task(task)
        check_space(Path(target).absolute(), assets_bytes(self.manifest, task))
        Path(target).mkdir(parents=True, exist_ok=True)
        beside: Mapping[str, Path] = {}
        if task is None and not self.manifest.base.carried:
            with self.open_base() as base:
                beside = base.assets
        with self.as_it_was():
            self.have(path for path in self.files_of(task) if path.startswith("assets/"))
            write_assets(self.path, self.manifest, task, beside, Path(target))
        return Path(target)
