"""Writes what the packer coded into a folder: containers, assets, card, manifest."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import zstandard
from blake3 import blake3
from numpy.typing import NDArray

from taskstore import card
from taskstore.checkpoint import Checkpoint, Originals, WeightFile
from taskstore.errors import CheckpointError
from taskstore.executors import ordered_map
from taskstore.format import layouts, names
from taskstore.format import manifest as m
from taskstore.format.container_files import ShardedWriter
from taskstore.format.digests import file_digests
from taskstore.format.names import CARD, MANIFEST
from taskstore.format.section import SectionWriter
from taskstore.format.validate import check
from taskstore.format.weight_files import VERSION_OF_SHARDS
from taskstore.vectors import Family

ASSET_LEVEL = 12
Hash = Any
Key = tuple[str | None, str, str]


class StoreWriter:
    """Chunks arrive in order, tensor by tensor; each kind of section goes to its own files.

    Sections are keyed by their file's stem and the tensor, digests by task (or None for the
    base), the tensor, and the tier that rebuilds it ("" where none does).
    """

    def __init__(self, root: Path, draft: m.Manifest, shard_bytes: int, jobs: int) -> None:
        self._root, self._draft = root, draft
        self._pool = ThreadPoolExecutor(jobs, thread_name_prefix="taskstore-hash")
        stems = {
            names.BASE: layouts.base_layouts(draft),
            names.MULTITASK: layouts.multitask_layouts(draft),
        }
        for name, task in draft.tasks.items():
            stems[names.masks_of(name)] = layouts.mask_layouts(draft, task)
            stems[names.rest_of(name)] = layouts.rest_layouts(draft, task)
            stems[names.exact_of(name)] = layouts.exact_layouts(draft, task)
            stems[names.private_of(name)] = layouts.private_layouts(draft, task)
        self._writers = {
            stem: ShardedWriter(root, stem, sections, shard_bytes)
            for stem, sections in stems.items()
            if sections
        }
        self._sections: dict[str, SectionWriter] = {}
        self._hashes: dict[Key, Hash] = {}
        self._digests: dict[Key, str] = {}
        self._ones: dict[tuple[str, str], int] = {}
        self.moved: set[str] = set()  # tasks with any weight that differs from the base's

    def begin(self, stem: str, tensor: str) -> None:
        """Start a section; `add` and `end` go to it until the next one of this stem."""
        self._sections[stem] = self._writers[stem].section(tensor)

    def add(self, stem: str, streams: Sequence[bytes]) -> None:
        self._sections[stem].add(streams)

    def end(self, stem: str) -> None:
        self._sections.pop(stem).finish()

    @contextmanager
    def hashing(self, parts: Iterable[tuple[Key, NDArray[Any]]]) -> Iterator[None]:
        """Feed the next rebuilt elements of each key, while the block writes."""
        waiting = [
            self._pool.submit(self._hashes.setdefault(key, blake3()).update, elements.view("u1"))
            for key, elements in parts
        ]
        yield
        for future in waiting:
            future.result()

    def close_hash(self, key: Key) -> None:
        """The tensor is complete."""
        done = self._hashes.pop(key, None) or blake3()
        self._digests[key] = done.hexdigest()

    def count(self, task: str, tensor: str, ones: int, *, moved: bool) -> None:
        """Bits set in a chunk's mask, and whether the task moved any of its weights."""
        self._ones[task, tensor] = self._ones.get((task, tensor), 0) + ones
        if moved:
            self.moved.add(task)

    def abort(self) -> None:
        self._pool.shutdown()
        for writer in self._writers.values():
            writer.abort()

    def finish(
        self,
        family: Family,
        kept: Mapping[str | None, Originals],
        jobs: int,
        report: Callable[[str, int], None],
    ) -> m.Manifest:
        """Assets, card and manifest; returns what was written.

        `kept`: models whose weight files are to be written again; `report` hears of each as it
        is read, for its checksum.
        """
        for writer in self._writers.values():
            writer.finish()
        paths = [path for writer in self._writers.values() for path in writer.paths]
        assets: dict[str, m.Asset] = {}
        carried = self._draft.base.carried
        base_assets = self._assets(family.base, assets) if carried else {}
        task_assets = {task.name: self._assets(task, assets) for task in family.tasks}
        shards = {model: self._shards(files, assets, jobs, report) for model, files in kept.items()}
        index = {model: self._index(files, assets) for model, files in kept.items()}
        paths += [f"assets/{digest}" for digest in assets]
        files = file_digests(self._root, paths, jobs)
        done = msgspec.structs.replace(
            self._draft,
            version=VERSION_OF_SHARDS if kept else self._draft.version,
            base=msgspec.structs.replace(
                self._draft.base,
                assets=base_assets,
                shards=shards.get(None),
                index=index.get(None),
            ),
            tensors=self._tensors(),
            tasks={
                name: msgspec.structs.replace(
                    task,
                    assets=task_assets[name],
                    tensors=self._entries(name, task),
                    shards=shards.get(name),
                    index=index.get(name),
                )
                for name, task in self._draft.tasks.items()
            },
            assets=dict(sorted(assets.items())),
            files=files,
        )
        return seal(self._root, done)

    def _tensors(self) -> dict[str, m.Tensor]:
        return {
            name: msgspec.structs.replace(t, blake3=self._digests[None, t.alias or name, ""])
            for name, t in self._draft.tensors.items()
        }

    def _entries(self, task_name: str, task: m.Task) -> dict[str, m.TaskTensor]:
        def digests(name: str) -> list[str]:
            """Of each tier, lowest first."""
            entry = task.tensors[name]
            if entry.kind == "alias":
                assert entry.of is not None
                return digests(entry.of)
            owner = None if entry.kind == "base" else task_name
            return [self._digests[owner, name, tier] for tier in task.rungs(name) or ("",)]

        def entry(name: str, drafted: m.TaskTensor) -> m.TaskTensor:
            *lower, best = digests(name)
            ones = self._ones.get((task_name, name), 0) if drafted.kind == "mask" else None
            lower = lower if drafted.kind in m.TIERS else []
            return msgspec.structs.replace(drafted, blake3=best, lower=lower or None, ones=ones)

        return {name: entry(name, drafted) for name, drafted in task.tensors.items()}

    def _assets(self, model: Checkpoint, known: dict[str, m.Asset]) -> dict[str, str]:
        """Store the files beside a model's weights, each content once; path -> hash."""
        stored = {}
        for inside, path in sorted(model.assets.items()):
            try:
                raw = path.read_bytes()
            except OSError as error:
                raise CheckpointError(path, f"cannot be read: {error.strerror}") from None
            stored[inside] = self._put(raw, known)
        return stored

    def _put(self, raw: bytes, known: dict[str, m.Asset]) -> str:
        """Store a content unless it is there; its hash."""
        digest = blake3(raw).hexdigest()
        if digest not in known:
            frame = zstandard.ZstdCompressor(level=ASSET_LEVEL).compress(raw)
            smaller = len(frame) < len(raw)
            known[digest] = m.Asset(bytes=len(raw), stored="zstd" if smaller else "raw")
            target = self._root / "assets" / digest
            target.parent.mkdir(exist_ok=True)
            target.write_bytes(frame if smaller else raw)
        return digest

    def _shards(
        self,
        model: Originals,
        known: dict[str, m.Asset],
        jobs: int,
        report: Callable[[str, int], None],
    ) -> dict[str, m.Shard]:
        """Store the headers of a model's weight files; reads the files for their checksums."""

        def digested(file: WeightFile) -> tuple[WeightFile, str]:
            return file, file.digest()

        shards = {}
        for file, digest in ordered_map(digested, model.files, jobs=jobs):
            head = self._put(file.head(), known)
            shards[file.name] = m.Shard(header=head, bytes=file.size, blake3=digest)
            report(file.name, file.size)
        return shards

    def _index(self, model: Originals, known: dict[str, m.Asset]) -> dict[str, str] | None:
        return {name: self._put(read(), known) for name, read in model.index.items()} or None


def seal(root: Path, manifest: m.Manifest) -> m.Manifest:
    """Write the card, list it among the files, and write the manifest, which is returned."""
    (root / CARD).write_text(card.render(manifest), encoding="utf-8")
    files = {**manifest.files, **file_digests(root, [CARD], 1)}
    done = msgspec.structs.replace(manifest, files=dict(sorted(files.items())))
    check(done)
    (root / MANIFEST).write_bytes(m.to_bytes(done))
    return done
