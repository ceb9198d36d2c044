"""Write coded blocks into a store's folder: containers and assets."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, Self

import msgspec
from blake3 import blake3
from numpy.typing import NDArray

from taskstore.format import layouts, names
from taskstore.format import manifest as m
from taskstore.format.container_files import ShardedWriter
from taskstore.format.digests import file_digests
from taskstore.format.fidelity import of_sums
from taskstore.format.members import Adapter
from taskstore.format.section import Layout, SectionWriter
from taskstore.format.tiers import BY_NAME
from taskstore.merging.similarity import F64, Gram
from taskstore.models import Checkpoint
from taskstore.models.readers.adapted import adapter_files
from taskstore.packing.assets import OF_WEIGHTS, AssetWriter
from taskstore.packing.job import PackJob
from taskstore.packing.manifest_draft import Key, completed

Hash = Any


class Counted(Protocol):
    """What was measured of a task in one block."""

    @property
    def tiers(self) -> tuple[str, ...]: ...
    @property
    def ones(self) -> int: ...
    @property
    def moved(self) -> bool: ...
    @property
    def sums(self) -> NDArray[Any] | None: ...


@dataclass
class CodedPart:
    """Streams for one section, and the rebuilt elements of one model's tensor.

    They go into the checksums of `tiers`: their own tier's, or those of all tiers, where they are
    the rows of a grown vocabulary.
    """

    stem: str | None  # None: nothing is stored, only the checksum grows
    streams: list[bytes]
    task: str | None
    rebuilt_N: NDArray[Any]
    tiers: tuple[str, ...] = ("",)
    ones: int = 0
    moved: bool = False
    sums: NDArray[Any] | None = None  # of kernels/products.py, where the tier is no exact one
    kept: int | None = None  # so many of the elements are the task's, where rows were cut
    open_ended: bool = False  # more rows of this tensor follow from another section

    def keys(self, tensor: str) -> list[Key]:
        return [(self.task, tensor, tier) for tier in self.tiers]


@dataclass
class CodedBlock:
    """One block, coded: streams for the sections, and what is rebuilt from them.

    tasks      those that share it, by number
    products   inner products of their vectors (S, S); None where no task shares it
    """

    name: str
    first: bool
    last: bool
    read_bytes: int
    parts: list[CodedPart] = field(default_factory=list)
    multitask: list[bytes] | None = None
    products: F64 | None = None
    tasks: Sequence[int] = ()

    def strip(self) -> None:
        """Drop the streams: a tensor without elements has sections without any."""
        self.multitask = None if self.multitask is None else []
        for part in self.parts:
            part.streams = []


class Tally:
    """What is known of a family once its blocks are coded, added up in their order.

    digests  of rebuilt tensors, by task (None: the base), tensor and tier ("": none)
    ones     bits set in a task's mask of a tensor
    sums     of kernels/products.py, by task and tier
    moved    tasks with any weight that differs from the base's
    """

    def __init__(self, tasks: int) -> None:
        self.digests: dict[Key, str] = {}
        self.ones: dict[tuple[str, str], int] = {}
        self.gram = Gram(tasks)
        self.sums: dict[tuple[str, str], NDArray[Any]] = {}
        self.moved: set[str] = set()

    def count(self, task: str, tensor: str, part: Counted) -> None:
        """Add what was measured of a task in one block."""
        self.ones[task, tensor] = self.ones.get((task, tensor), 0) + part.ones
        if part.moved:
            self.moved.add(task)
        if part.sums is not None:
            (tier,) = part.tiers
            self.sums[task, tier] = self.sums.get((task, tier), 0.0) + part.sums

    def error(self, task: str, tier: str) -> float:
        """Return the error of what is coded of a task up to a tier (format/fidelity.py)."""
        found = self.sums.get((task, tier))
        return 0.0 if found is None else of_sums(m.Sums.of(found.tolist())).error or 0.0

    def again(self, tasks: Collection[str]) -> None:
        """Forget the sums of tasks whose blocks all follow anew."""
        self.sums = {key: sums for key, sums in self.sums.items() if key[0] not in tasks}


class StoreWriter:
    """Takes blocks in order, tensor by tensor; each kind of section goes to its own files."""

    def __init__(self, root: Path, draft: m.Manifest, job: PackJob) -> None:
        self._root, self._draft, self._job = root, draft, job
        self._pool = ThreadPoolExecutor(job.executor.jobs, thread_name_prefix="taskstore-hash")
        self._writers = {
            stem: ShardedWriter(root, stem, sections, job.options.shard_bytes)
            for stem, sections in sections_of(draft, job).items()
        }
        self._sections: dict[str, SectionWriter] = {}
        self._hashes: dict[Key, Hash] = {}
        self.tally = Tally(len(draft.tasks))

    def write(self, block: CodedBlock) -> None:
        """Write one block's streams while its rebuilt elements go into their checksums."""
        with self._hashing(
            (k, p.rebuilt_N[: p.kept]) for p in block.parts for k in p.keys(block.name)
        ):
            if block.multitask is not None:
                self._section(block, names.MULTITASK, block.multitask)
            for part in block.parts:
                if part.stem is not None:
                    self._section(block, part.stem, part.streams)
        if block.products is not None:
            self.tally.gram.add(block.tasks, block.products)
        for part in block.parts:
            if part.task is not None:
                self.tally.count(part.task, block.name, part)
            if block.last and not part.open_ended:
                for key in part.keys(block.name):
                    done = self._hashes.pop(key, None) or blake3()
                    self.tally.digests[key] = done.hexdigest()

    def _section(self, block: CodedBlock, stem: str, streams: list[bytes]) -> None:
        if block.first:
            self._sections[stem] = self._writers[stem].section(block.name)
        self._sections[stem].add(streams)
        if block.last:
            self._sections.pop(stem).finish()

    @contextmanager
    def _hashing(self, parts: Iterable[tuple[Key, NDArray[Any]]]) -> Iterator[None]:
        """Feed the next rebuilt elements of each key to its checksum while the block is written."""
        new = [(self._hashes.setdefault(k, blake3()), elements) for k, elements in parts]
        jobs = min(self._job.executor.jobs, len(new))
        waiting = [self._pool.submit(_update, new[j::jobs]) for j in range(jobs)]
        yield
        for future in waiting:
            future.result()

    def again(self, bits: Mapping[str, float]) -> None:
        """Drop the files of tasks whose rests get other bits; all of their blocks follow anew."""
        for stem in (stem for name in bits for stem in names.stems_of(name)):
            if stem in self._writers:
                self._writers[stem].restart()
        self._draft = with_bits(self._draft, bits)
        self.tally.again(bits)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Close the files that are not finished; their folder is not published then."""
        self._pool.shutdown()
        for writer in self._writers.values():
            writer.abort()

    def finish(self, share: float) -> m.Manifest:
        """Write assets; returns the manifest of all that is written, not yet sealed.

        `share`: of the weights, those whose products were taken.
        """
        for writer in self._writers.values():
            writer.finish()
        paths = [path for writer in self._writers.values() for path in writer.paths]
        files = file_digests(self._root, paths, self._job.executor)
        return finish(self._root, self._job, self._draft, self.tally, files, share)


def _update(new: Sequence[tuple[Hash, NDArray[Any]]]) -> None:
    for done, elements in new:
        done.update(elements.view("u1"))


def sections_of(draft: m.Manifest, job: PackJob) -> dict[str, dict[str, Layout]]:
    """Return the sections that a store will have, by the stem of their files, in their order."""
    stems = {
        names.BASE: layouts.base_layouts(draft),
        names.MULTITASK: {} if job.family.multitask else layouts.multitask_layouts(draft),
    }
    for name, task in draft.tasks.items():
        stems |= {tier.stem(name): tier.layouts(draft, task) for tier in BY_NAME.values()}
        stems[names.private_of(name)] = layouts.private_layouts(draft, task)
        stems[names.adapter_of(name)] = layouts.adapter_layouts(draft, task)
    return {stem: dict(sections) for stem, sections in stems.items() if sections}


def with_bits(draft: m.Manifest, bits: Mapping[str, float]) -> m.Manifest:
    """Return the manifest of tasks whose rests get other bits."""
    tasks = dict(draft.tasks)
    for name, finer in bits.items():
        tasks[name] = msgspec.structs.replace(tasks[name], bits=finer)
    return msgspec.structs.replace(draft, tasks=tasks)


def finish(
    root: Path,
    job: PackJob,
    draft: m.Manifest,
    tally: Tally,
    files: Mapping[str, m.File],
    share: float,
) -> m.Manifest:
    """Write assets beside containers, `files`; returns the manifest of all, not yet sealed."""
    family, kept, executor = job.family, job.kept, job.executor
    assets = AssetWriter(root)
    models: dict[str | None, Checkpoint] = {task.name: task for task in family.tasks}
    if draft.base.carried:
        models[None] = family.base
    beside = {name: assets.beside(model.assets) for name, model in models.items()}
    weights = {name: assets.beside(m.beside, OF_WEIGHTS) or None for name, m in models.items()}
    shards = {name: assets.shards(found, executor, job.meter.add) for name, found in kept.items()}
    index = {name: assets.index(found) for name, found in kept.items()}
    adapters = {name: _adapter(job, assets, name) for name in job.adapters}
    own = file_digests(root, [f"assets/{digest}" for digest in assets.known], executor)
    known = (tally.digests, tally.ones, tally.sums)
    return msgspec.structs.replace(
        completed(draft, *known, beside, shards, index, weights, adapters),
        vectors=tally.gram.vectors(list(draft.tasks), share),
        assets=dict(sorted(assets.known.items())),
        files={**files, **own},
    )


def _adapter(job: PackJob, assets: AssetWriter, task: str) -> Adapter:
    """Keep what an adapter's files hold beside its tensors."""
    weights, beside = adapter_files(job.adapters[task])
    shards = None
    if weights is not None:
        shards = assets.shards(weights, job.executor, job.meter.add)
    return Adapter(tensors={}, assets=assets.beside(beside), shards=shards)
