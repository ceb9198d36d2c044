"""The blocks of a merged model: one worker reads, merges, adds and rounds a block.

On a cluster workers put merged tensors beside the target, and one joiner writes each file.
Arithmetic is float32, rounded once, to the dtype of the output. Legend: N = elements of a block.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taskstore.errors import NotFinite, Overflows
from taskstore.executors import Executor, Threads
from taskstore.format.dtypes import ITEMSIZE
from taskstore.format.weight_files import usual_head
from taskstore.kernels import cpu, floats
from taskstore.locations.base import Location
from taskstore.locations.remote import claims, mirror
from taskstore.locations.remote.claims import Claims
from taskstore.merging.job import MergeJob, read_bytes
from taskstore.merging.methods import F32
from taskstore.merging.methods.fitted import state_of
from taskstore.merging.outputs import Output
from taskstore.merging.task_vectors import Block, blocks, chunk_of
from taskstore.models import Checkpoint, TensorInfo
from taskstore.models.folder import Blocks, Place, in_order, shards_of, write_shard
from taskstore.models.weights_digest import sampled

SEGMENT = 32 << 20  # bytes of a tensor that are put at a time
Put = tuple[str, int]  # a tensor, and in how many segments it was put
Bits = NDArray[Any]


@dataclass(frozen=True)
class MergeUnit:
    """One block of the output `name`: merged, or copied from a model."""

    name: str
    block: Block
    copied: bool


def merged_blocks(job: MergeJob, names: list[str]) -> Iterator[tuple[str, Bits]]:
    """(name, bits) of the blocks of some outputs, in their order."""
    return job.executor.map(_block, job, _units(job, names))


def blocks_of(job: MergeJob, name: str) -> Iterator[Bits]:
    """The blocks of one output, one after the other; for a process that has its own copies."""
    for block in _units(job, [name]):
        yield _block(job, block)[1]
    job.source.prove()


@contextmanager
def kept_apart(job: MergeJob, target: Path) -> Iterator[Claims | None]:
    """Keep what the cluster that was joined merges until the block ends; None: there is none."""
    if job.cluster is None:
        yield None
        return
    options = replace(job.options, jobs=1, max_memory=0, overwrite=False)
    models = [(m.name, m.where, sampled(m)) for m in (job.family.base, *job.family.tasks)]
    found = [(path, _state(path)) for _, path in sorted(options.statistics.items())]
    asked = options, models, found, state_of(job.source.method)
    with claims.made_for(target, job.cluster, "merge", "", *asked) as made:
        yield made


def write_apart(job: MergeJob, made: Claims, target: Path, folder: Path) -> None:
    """Write the weight files of a merged model into `folder`, with the bytes of one process.

    This process joins them where `target` is in a bucket, and its folder not shared.
    """
    infos = job.outputs.infos
    unread = {name: read_bytes(job.family, o) for name, o in job.outputs.tensors.items()}
    largest = sorted(infos, key=lambda name: (-unread[name], name))
    shared, put = (job, made.place, made.folder), dict[str, int]()
    for name, count in made.map(put_tensor, shared, largest):
        put[name] = count
        job.meter.add(name, unread[name])
    files = [
        (file, [(name, put[name]) for name in names])
        for file, names in shards_of(folder, infos, job.options.shard_bytes)
    ]
    joiner: Executor = Threads(1, 1) if mirror.address_of(target) else made.cluster
    for _ in joiner.map(join_file, (folder, infos, made.place, made.folder), files):
        pass


def put_tensor(shared: tuple[MergeJob, Location, str], name: str) -> Put:
    """Merge a tensor, and put it in segments; for any process."""
    job, place, folder = shared
    waiting, size, count = list[bytes](), 0, 0
    for bits_N in blocks_of(job, name):
        waiting.append(bits_N.tobytes())
        size += bits_N.nbytes
        if size >= SEGMENT:
            place.put(_segment(folder, name, count), b"".join(waiting))
            waiting, size, count = [], 0, count + 1
    if waiting:
        place.put(_segment(folder, name, count), b"".join(waiting))
        count += 1
    return name, count


def join_file(
    shared: tuple[Path, Mapping[str, TensorInfo], Location, str], unit: tuple[str, list[Put]]
) -> str:
    """Write one weight file of tensors that were put, in place of what a joiner that died left."""
    (folder, infos, place, parts), (file, put) = shared, unit
    (folder / file).unlink(missing_ok=True)
    names = [name for name, _ in put]

    def blocks(where: Place) -> Blocks:
        return in_order(_read(infos, place, parts, put), where)

    write_shard(folder / file, usual_head(infos, names), (names, infos), blocks, _unsaid)
    return file


def _read(
    infos: Mapping[str, TensorInfo], place: Location, folder: str, put: Sequence[Put]
) -> Blocks:
    for name, count in put:
        for number in range(count):
            with closing(place.open(_segment(folder, name, number))) as file:
                data = file.read(0, file.size)
            yield name, np.frombuffer(data, f"<u{ITEMSIZE[infos[name].dtype]}")


def _segment(folder: str, name: str, number: int) -> str:
    return f"{folder}/{claims.digest(name)}.{number}"


def _unsaid(_: str, __: int) -> None:
    """What is joined was counted when it was merged."""


def _state(path: Path) -> tuple[int, int] | None:
    found = os.stat(path) if os.path.exists(path) else None
    return found and (found.st_size, found.st_mtime_ns)


def _units(job: MergeJob, names: list[str]) -> Iterator[MergeUnit]:
    chunk, base = job.options.chunk, job.family.base.tensors
    for name in names:
        output = job.outputs.tensors[name]
        if output.source:
            info = base[output.source]
            size = chunk_of(info, chunk, job.source.method)
            for block in blocks(output.source, info, output.tasks, size):
                if block.start < output.info.numel:  # fewer where a vocabulary was cut
                    yield MergeUnit(name, block, copied=False)
        if output.copied is not None:
            theirs = output.copied.tensors[name]
            left = TensorInfo(theirs.dtype, (theirs.numel - output.start,))
            for block in blocks(name, left, (), chunk):
                yield MergeUnit(name, block, copied=True)


def _block(job: MergeJob, unit: MergeUnit) -> tuple[str, Bits]:
    name, block, output = unit.name, unit.block, job.outputs.tensors[unit.name]
    if unit.copied:
        assert output.copied is not None
        return name, _copied(output, output.copied, block)
    left = output.info.numel - block.start
    if not block.tasks:
        bits_N = job.family.base.read(block.name, block.start, block.stop)
        return name, cpu.cast(bits_N, block.info.dtype, output.info.dtype)[:left]
    vectors = job.source.block(block)
    merged_N = job.source.merge(vectors)
    bits_N = added(vectors.theta0_N, merged_N, job.options.scale, output.info.dtype, name)
    return name, bits_N[:left]


def _copied(output: Output, model: Checkpoint, block: Block) -> Bits:
    """Elements from `output.start` on of a model's tensor, in the output's dtype, NaN as it is."""
    bits_N = model.read(block.name, output.start + block.start, output.start + block.stop)
    return cpu.cast(bits_N, block.info.dtype, output.info.dtype)


def added(theta0_N: F32, tau_N: F32, alpha: float, dtype: str, tensor: str) -> Bits:
    """round(theta_0 + alpha tau) as bits of `dtype`, (N,); what is not finite in theta_0 stays.

    Raises NotFinite, or Overflows if only the sum is not finite.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        scaled_N = tau_N if alpha == 1 else tau_N * np.float32(alpha)
        bits_N = floats.from_float32(theta0_N + scaled_N, dtype)
    if not floats.all_finite(bits_N, dtype):
        given_N = np.isfinite(theta0_N)
        if floats.all_finite(bits_N[given_N], dtype):
            return np.where(given_N, bits_N, floats.from_float32(theta0_N, dtype))
        if not np.isfinite(tau_N).all():
            raise NotFinite("the merged vector", tensor)
        raise Overflows(tensor, dtype)
    return bits_N
