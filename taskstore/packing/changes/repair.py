"""Mend files of a store that are damaged or missing, byte for byte, from a copy or from originals.

A copy is any store that has a file of the same checksum. An original is a fine-tune, which is coded
again as it was, or the base. What comes out counts only if its checksum is the recorded one, so
nothing wrong can enter; the manifest does not change.
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
from taskstore.format.names import CARD
from taskstore.format.section import encode
from taskstore.locations import dry, mounts
from taskstore.locations.base import PathLike
from taskstore.locations.files import copy_regular, resolve
from taskstore.models import Checkpoint, open_checkpoint
from taskstore.packing.changes import given
from taskstore.packing.changes.commit import staged
from taskstore.packing.changes.options import AddOptions
from taskstore.packing.driver import pack_family
from taskstore.packing.only_writer import in_place, place_of
from taskstore.packing.options import PackOptions
from taskstore.progress import Callback, silent
from taskstore.store import Store, card
from taskstore.store import open as open_store
from taskstore.store.contents import is_store
from taskstore.store.store import opened


@dataclass(frozen=True)
class RepairReport:
    """Paths in the store: mended, and damaged or missing still; notes say why."""

    mended: list[str]
    left: list[str]
    notes: list[str] = field(default_factory=list)


@in_place
def repair(
    store: Store | PathLike,
    sources: Sequence[PathLike],
    *,
    jobs: int | None = None,
    progress: Callback = silent,
) -> RepairReport:
    """Mend what is damaged or missing, from stores, fine-tunes or the base, in their order.

    Raises InputError for a source that is neither. What they do not have is left as it is.
    """
    store, executor = opened(store), threads(jobs)
    files = store.manifest.files
    bad = [path for path, ok in executor.map(_is_good, store, files) if not ok]
    dry.stop()
    job = _Repair(store, executor.jobs, bad)
    with staged(store) as folder:
        job.card(folder)
        for source in sources:
            if not job.left:
                break
            path = Path(source)
            found = job.of_copy(path) if is_store(path) else job.of_model(path, folder, progress)
            for name, where in found:
                job.mend(name, where, folder)
    return RepairReport([path for path in bad if path not in job.left], job.left, job.notes)


def _is_good(store: Store, path: str) -> tuple[str, bool]:
    try:
        check_file(store.path, path, store.manifest.files[path])
    except TaskstoreError:
        return path, False
    return path, True


Found = Iterator[tuple[str, Path]]  # paths in the store, and files that may be what belongs there


class _Repair:
    def __init__(self, store: Store, jobs: int, bad: list[str]) -> None:
        self._store, self._jobs = store, jobs
        self.left, self.notes = list(bad), list[str]()

    def mend(self, name: str, where: Path, folder: Path) -> None:
        """Put a file in its place, if it is the recorded one."""
        recorded = self._store.manifest.files[name]
        part = folder / "part"
        with suppress(FormatError):
            copy_regular(where, part)
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
            manifest = self._store.manifest
            files = {path: file for path, file in manifest.files.items() if path != CARD}
            text = card.render(msgspec.structs.replace(manifest, files=files))
            (folder / CARD).write_text(text, encoding="utf-8")
            self.mend(CARD, folder / CARD, folder)

    def of_copy(self, path: Path) -> Found:
        """Find files in another store, by their checksums."""
        with closing(open_store(path)) as other:
            by_content: dict[File, str] = {file: p for p, file in other.manifest.files.items()}
            for name in list(self.left):
                theirs = by_content.get(self._store.manifest.files[name])
                if theirs is not None:
                    with suppress(OSError):
                        yield name, resolve(other.path / theirs, other.path)

    def of_model(self, path: Path, folder: Path, progress: Callback) -> Found:
        """Code a fine-tune again, or the base, and find its files."""
        before, tried = len(self.left), list[str]()
        for task in self._tasks_in_need(path):
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
        if len(self.left) == before:
            what = " or ".join(tried) or "what is damaged"
            self.notes.append(f"{path} does not give back {what} byte for byte")

    def _tasks_in_need(self, path: Path) -> list[str]:
        """List tasks with damaged files; those that came from a folder of that name first."""
        tasks = self._store.manifest.tasks
        needing = [t for t in tasks if set(self._store.files_of(t)) & set(self.left)]
        return sorted(needing, key=lambda t: path.name not in (t, tasks[t].origin))

    def _coded(self, task: str, path: Path, alone: Path, progress: Callback) -> Found:
        options = self._as_it_was(task)
        masked, executor = "mask" in options.tier_names, threads(self._jobs)
        with given.joined(self._store, {task: path}, executor, masked=masked) as family:
            pack_family(family, alone, options, progress)
        new, manifest = open_store(alone), self._store.manifest
        ours = f"tasks/{manifest.folder(task)}/"
        for name in list(self.left):
            place = f"tasks/{new.manifest.folder(task)}/{name.removeprefix(ours)}"
            theirs = place if name.startswith(ours) else name
            if theirs in new.manifest.files and theirs != CARD:
                yield name, alone / theirs

    def _as_it_was(self, task: str) -> PackOptions:
        """Return the options that a task was coded with."""
        recorded = self._store.manifest.tasks[task]
        options = AddOptions(jobs=self._jobs, lam=recorded.lam, max_error=None, keep_private=True)
        found = options.for_tasks(self._store, [task])
        return replace(found, parent="none") if "exact" in found.tier_names else found

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
