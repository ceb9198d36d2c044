"""One merge, once its input is known to be good: what travels through all of it."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

from numpy.typing import NDArray

from taskstore.cluster import Cluster, joined
from taskstore.executors import Executor, threads
from taskstore.merging import needed_statistics
from taskstore.merging.methods import Vectors, Whole
from taskstore.merging.methods.matrix_memory import reserved
from taskstore.merging.options import MergeOptions
from taskstore.merging.outputs import Output, Outputs, decide
from taskstore.merging.scratch import KeptVector, Prepared
from taskstore.merging.task_vectors import Block, Source, blocks, chunk_of
from taskstore.models import TensorInfo
from taskstore.models.compare import compare
from taskstore.models.family import Family
from taskstore.progress import Callback, Meter, silent


@dataclass(frozen=True)
class VectorScan:
    """A pass over a family's task vectors, for methods that look before they merge.

    shared   (tensor, the base's, the tasks that share it), in the order of the pass
    report   is told a tensor's name and the bytes of the family that were read
    """

    source: Source
    shared: Sequence[tuple[str, TensorInfo, tuple[int, ...]]]
    executor: Executor
    report: Callable[[str, int], None]

    @property
    def names(self) -> list[str]:
        return [task.name for task in self.source.family.tasks]

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        return {name: info.shape for name, info, _ in self.shared}

    def kept(self, key: Hashable) -> NDArray[Any] | None:
        prepared = self._prepared
        return prepared.get((self.source.weighted, key)) if prepared else None

    def keep(self, key: Hashable, array: NDArray[Any]) -> None:
        if prepared := self._prepared:
            prepared.put((self.source.weighted, key), array)

    @property
    def _prepared(self) -> Prepared | None:
        return self.source.kept.prepared if self.source.kept else None

    def whole(self, tensor: str) -> Whole:
        return next(self.source.whole(tensor, t) for name, _, t in self.shared if name == tensor)

    def blocks(self, function: Callable[[Vectors], Any]) -> Iterator[tuple[str, Any]]:
        """(tensor, function(block)) for each block, in order."""
        method = self.source.method
        every = (
            block
            for name, info, tasks in self.shared
            for block in blocks(name, info, tasks, chunk_of(info, self.source.chunk, method))
        )
        for block, result in self.executor.map(_seen, (self.source, function), every):
            size = block.info.nbytes // max(1, block.info.numel)
            self.report(block.name, (block.stop - block.start) * size * (1 + len(block.tasks)))
            yield block.name, result


def _seen(shared: tuple[Source, Callable[[Vectors], Any]], block: Block) -> tuple[Block, Any]:
    source, function = shared
    return block, function(source.block(block))


@dataclass(frozen=True)
class MergeJob:
    """What all steps of a merge share.

    source    reads the vectors and merges them
    outputs   what the merged model consists of
    executor  runs blocks; as many are in flight as the options' memory allows
    """

    source: Source
    outputs: Outputs
    options: MergeOptions
    executor: Executor
    meter: Meter

    @property
    def family(self) -> Family:
        return self.source.family

    @property
    def cluster(self) -> Cluster | None:
        """The cluster that was joined, unless the vectors are only here: kept, or a store's."""
        return joined() if type(self.source) is Source and not self.source.kept else None

    def __reduce__(self) -> Any:
        """Another process merges by it, and neither reports nor finishes a model."""
        members = (self.family.base, *self.family.tasks)
        places = {id(model): n for n, model in enumerate(members)}
        outputs = {
            name: (replace(output, copied=None), output.copied and places[id(output.copied)])
            for name, output in self.outputs.tensors.items()
        }
        return _to_merge, (self.source, outputs, self.options)


def _to_merge(
    source: Source, outputs: Mapping[str, tuple[Output, int | None]], options: MergeOptions
) -> MergeJob:
    members = (source.family.base, *source.family.tasks)
    found = {
        name: output if place is None else replace(output, copied=members[place])
        for name, (output, place) in outputs.items()
    }
    return MergeJob(source, Outputs(found), options, threads(1), Meter(silent, 0))


@contextmanager
def make_job(
    family: Family,
    options: MergeOptions,
    progress: Callback,
    source: Source | None,
    notes: Mapping[str, str],
    kept: KeptVector | None = None,
) -> Iterator[MergeJob]:
    """A job whose statistics are open; raises InputError for what cannot be merged.

    `source` None: the vectors are read from the family; `notes` come before the outputs' own.
    """
    outputs = decide(family, compare(family), options)
    outputs.notes = {**notes, **outputs.notes}
    executor = options.executor(len(family.tasks))
    with nullcontext(source) if source else _read(family, options, executor, kept) as source:
        wanted = [(n, family.base.tensors[n].shape, len(o.tasks)) for n, o in outputs.merged()]
        matrix = reserved(source.method, options.method, wanted, options.max_memory)
        executor = options.executor(len(family.tasks), matrix)
        meter = Meter(progress, _total_bytes(family, outputs, source.method.passes))
        yield MergeJob(source, outputs, options, executor, meter)


@contextmanager
def _read(
    family: Family, options: MergeOptions, executor: Executor, kept: KeptVector | None
) -> Iterator[Source]:
    """The family's vectors as the method wants them, with the statistics that it needs."""
    method, name, paths = options.made(), options.method, options.statistics
    with needed_statistics.opened(family, method, name, paths, executor) as files:
        kinds = options.info.statistics
        weights = options.weights, options.layer_weights
        yield Source(family, method, options.chunk, *weights, files, kinds, kept)


def _total_bytes(family: Family, outputs: Outputs, passes: int) -> int:
    """Bytes of weights that will be read, over all passes."""
    once = sum(read_bytes(family, output) for output in outputs.tensors.values())
    return once + passes * sum(read_bytes(family, output) for _, output in outputs.merged())


def read_bytes(family: Family, output: Output) -> int:
    """Bytes of weights that are read for one tensor in one pass."""
    if not output.source:
        return output.info.nbytes
    models = (family.base, *(family.tasks[t] for t in output.tasks))
    return sum(model.tensors[output.source].nbytes for model in models)
