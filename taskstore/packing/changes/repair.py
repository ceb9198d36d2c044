"""Mend files of a store that are damaged or missing, byte for byte, from a copy or from originals.

A copy is any store that has a file of the same checksum. An original is a fine-tune, which is coded
again as it was, or the base. What comes out counts only if its checksum is the recorded one, so
nothing wrong can enter; the manifest does not change, unless it is damaged or gone itself.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec

from taskstore.errors import FormatError, TaskstoreError
from taskstore.executors import threads
from taskstore.format import layouts, names
from taskstore.format.container_files import ShardedWriter
from taskstore.format.digests import check_file
from taskstore.format.dtypes import plain_codec
from taskstore.format.manifest import File
from taskstore.format.manifest_file import is_store
from taskstore.format.names import CARD, MANIFEST
from taskstore.format.section import encode
from taskstore.locations import dry, mounts, ownership
from taskstore.locations.base import PathLike
from taskstore.locations.files import copy_regular, resolve
from taskstore.locations.remote.mirror import need_folder
from taskstore.models import Checkpoint, open_checkpoint
from taskstore.packing.changes import given
from taskstore.packing.changes.commit import staged
from taskstore.packing.changes.lost_manifest import put_back
from taskstore.packing.changes.options import as_it_was
from taskstore.packing.driver import code_family
from taskstore.packing.only_writer import in_place, place_of
from taskstore.packing.options import PackOptions
from taskstore.progress import Callback, silent
from taskstore.public import public
from taskstore.store import Store, card
from taskstore.store import open as open_store

ELSEWHERE = (
    "repair mends folders: fetch the files as they are, with what your bucket comes with "
    "(`aws s3 sync`, `rclone copy`), repair that folder, and `taskstore copy` it to a new address"
)


@dataclass(frozen=True)
class RepairReport:
    """Paths in the store: mended, and damaged or missing still; notes say why."""

    mended: list[str]
    left: list[str]
    notes: list[str] = field(default_factory=list)


@public
def repair(
    store: Store | PathLike,
    sources: Sequence[PathLike] = (),
    *,
    base: PathLike | None = None,
    jobs: int | None = None,
    progress: Callback = silent,
) -> RepairReport:
    """Mend what is damaged or missing, from stores, fine-tunes or the base, in their order.

    `base` says where a base is that the store only references. Raises InputError for a source that
    is neither, FormatError for a manifest that nothing gives back. What they do not have is left as
    it is. Raises OptionError for a store at an address.
    """
    where = store.where if isinstance(store, Store) else store
    need_folder(where, ELSEWHERE)
    back = None
    if not isinstance(store, Store):
        back = put_back(store, sources, threads(jobs))
        store = open_store(store, base=base)
    found = _mended(store, sources, jobs, progress)
    if back is None:
        return found
    return replace(
        found, mended=[MANIFEST, *found.mended], notes=[f"{MANIFEST}: {back}", *found.notes]
    )


@in_place
def _mended(
    store: Store, sources: Sequence[PathLike], jobs: int | None, progress: Callback
) -> RepairReport:
    executor = threads(jobs)
    files = store.manifest.files
    bad = [path for path, ok in executor.map(_is_good, store, files) if not ok]
    bad += [CARD] if CARD not in files and _is_stale(store) else []
    dry.note(would_mend=bad, also=[f"would mend: {path}" for path in bad])
    dry.stop()
    job = _Repair(store, executor.jobs, bad)
    with staged(store) as folder:
        job.card(folder)
        waiting, helped = list(map(Path, sources)), True
        while job.left and helped:  # what is mended may be needed to mend more
            job.notes.clear()
            useless = [p for p in waiting if job.left and not job.mended_by(p, folder, progress)]
            helped, waiting = len(useless) < len(waiting), useless
    mended = [path for path in bad if path not in job.left]
    return RepairReport(mended, job.left, job.notes if job.left else [])


def _is_good(store: Store, path: str) -> tuple[str, bool]:
    try:
        check_file(store.path, path, store.manifest.files[path])
    except TaskstoreError:
        return path, False
    return path, True


def _card(store: Store) -> str:
    """The text of a card, which follows from the manifest; sealed where no file list has it."""
    manifest = store.manifest
    files = {path: file for path, file in manifest.files.items() if path != CARD}
    text = card.render(msgspec.structs.replace(manifest, files=files))
    return text if CARD in manifest.files else ownership.sealed(text, ownership.HTML)


def _is_stale(store: Store) -> bool:
    """Tell whether a sealed card is missing, or another manifest's; one that was edited is not."""
    path = store.path / CARD
    with suppress(FileNotFoundError):
        return ownership.is_sealed(path, ownership.HTML) and path.read_text() != _card(store)
    return True


Found = Iterator[tuple[str, Path]]  # paths in the store, and files that may be what belongs there


class _Repair:
    def __init__(self, store: Store, jobs: int, bad: list[str]) -> None:
        self._store, self._jobs = store, jobs
        self.left, self.notes = list(bad), list[str]()

    def mended_by(self, path: Path, folder: Path, progress: Callback) -> bool:
        """Mend what a source has; tells whether that was anything."""
        before = len(self.left)
        of = self._of_copy(path) if is_store(path) else self._of_model(path, folder, progress)
        for name, where in of:
            self.mend(name, where, folder)
        return len(self.left) < before

    def mend(self, name: str, where: Path, folder: Path) -> None:
        """Put a file in its place, if it is the recorded one."""
        recorded = self._store.manifest.files.get(name)
        part = folder / "part"
        with suppress(FormatError):
            copy_regular(where, part)
            if recorded:
                check_file(folder, part.name, recorded)
            target = place_of(self._store) / name
            target.parent.mkdir(parents=True, exist_ok=True)
            with open(part, "rb") as file:
                os.fsync(file.fileno())
            os.replace(part, target)
            mounts.sync(target.parent)
            self.left.remove(name)
        part.unlink(missing_ok=True)

    def card(self, folder: Path) -> None:
        """Write the card again, which follows from the manifest."""
        if CARD in self.left:
            (folder / CARD).write_text(_card(self._store), encoding="utf-8")
            self.mend(CARD, folder / CARD, folder)

    def _of_copy(self, path: Path) -> Found:
        """Find files in another store, by their checksums."""
        with closing(open_store(path)) as other:
            by_content: dict[File, str] = {file: p for p, file in other.manifest.files.items()}
            for name in list(self.left):
                theirs = by_content.get(self._store.manifest.files[name])
                if theirs is not None:
                    with suppress(OSError):
                        yield name, resolve(other.path / theirs, other.path)

    def _of_model(self, path: Path, folder: Path, progress: Callback) -> Found:
        """Code a fine-tune again, against its parent as it was, or the base; find its files."""
        before, tried = len(self.left), list[str]()
        if any(name.startswith("assets/") for name in self.left):
            with closing(open_checkpoint(path)) as model:
                yield from self._assets(model)
        for task in self._tasks_in_need(path):
            if gone := self._lost_above(task):
                self.notes.append(
                    f"{task!r} is coded against {self._parent(task)!r}, whose {gone[0]} is damaged "
                    "too: name what mends that as well"
                )
                continue
            tried.append(task)
            alone = folder / "alone"
            try:
                yield from self._coded(task, path, alone, progress)
            except TaskstoreError as error:
                self.notes.append(f"{path} is not what {task!r} was made from: {error}")
            shutil.rmtree(alone, ignore_errors=True)
            if len(self.left) < before:
                return
        if any(name.startswith(names.BASE) for name in self.left):
            tried.append("the base")
            with closing(open_checkpoint(path)) as base:
                yield from self._base(base, folder / "base")
            shutil.rmtree(folder / "base", ignore_errors=True)
        if len(self.left) == before:
            what = " or ".join(tried) or "what is damaged"
            self.notes.append(f"{path} does not give back {what} byte for byte")

    def _assets(self, model: Checkpoint) -> Found:
        """Find configs, tokenizers and the like, which a store holds as they were."""
        sizes = self._store.manifest.files
        for file in model.assets.values():
            with suppress(OSError):
                size = file.stat().st_size
                for name in [n for n in self.left if n.startswith("assets/")]:
                    if sizes[name].bytes == size:
                        yield name, file

    def _tasks_in_need(self, path: Path) -> list[str]:
        """List tasks with damaged files; those that came from a folder of that name first."""
        manifest, tasks = self._store.manifest, self._store.manifest.tasks
        needing = [
            task
            for task in tasks
            if any(
                name.startswith((f"tasks/{manifest.folder(task)}/", "assets/"))
                for name in self._left_of(self._store.files_of(task))
            )
        ]
        return sorted(needing, key=lambda t: path.name not in (t, tasks[t].origin))

    def _parent(self, task: str) -> str | None:
        return self._store.manifest.tasks[task].parent

    def _lost_above(self, task: str) -> list[str]:
        """List damaged files without which a task's parent is not there."""
        parent = self._parent(task)
        needed = self._store.files_of(parent) if parent is not None else ()
        return self._left_of(needed)

    def _coded(self, task: str, path: Path, alone: Path, progress: Callback) -> Found:
        parent, store = self._parent(task), self._store
        options = as_it_was(store, task, parent, self._jobs)
        masked, executor = "mask" in options.tier_names, threads(self._jobs)
        beside = [parent] if parent is not None else []
        with given.joined(store, {task: path}, masked, beside, executor) as family:
            new, _ = code_family(family, alone, options, progress)
        manifest = self._store.manifest
        ours = f"tasks/{manifest.folder(task)}/"
        for name in list(self.left):
            place = f"tasks/{new.folder(task)}/{name.removeprefix(ours)}"
            theirs = place if name.startswith(ours) else name
            if theirs in new.files:
                yield name, alone / theirs

    def _base(self, base: Checkpoint, folder: Path) -> Found:
        """Code the base again, as `pack` does."""
        manifest = self._store.manifest
        sections = layouts.base_layouts(manifest)
        for name in sections:
            info, tensor = base.tensors.get(name), manifest.tensors[name]
            if info is None or (info.dtype, list(info.shape)) != (tensor.dtype, tensor.shape):
                return
        folder.mkdir()
        writer = ShardedWriter(folder, names.BASE, sections, PackOptions.shard_bytes)
        for name in sections:
            section, info = writer.section(name), base.tensors[name]
            for start in range(0, info.numel, manifest.chunk):
                bits_N = base.read(name, start, min(start + manifest.chunk, info.numel))
                section.add(encode(plain_codec(info.dtype), bits_N))
            section.finish()
        writer.finish()
        for name in self._left_of(writer.paths):
            yield name, folder / name

    def _left_of(self, paths: Iterable[str]) -> list[str]:
        return [path for path in paths if path in self.left]
