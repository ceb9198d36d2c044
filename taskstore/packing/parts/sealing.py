"""Make a store's files of the parts of a pack, and code parts for a store that is changed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from taskstore.cluster import Cluster, joined
from taskstore.errors import OptionError
from taskstore.executors import Executor, Threads
from taskstore.format import names
from taskstore.format.manifest import Manifest
from taskstore.locations.base import PathLike
from taskstore.locations.remote import claims, mirror
from taskstore.locations.remote.claims import Claims
from taskstore.models.weights_digest import sampled
from taskstore.packing import manifest_draft
from taskstore.packing.auto.choose import Choice, finer
from taskstore.packing.block_coder import Coder
from taskstore.packing.changes.options import AddOptions
from taskstore.packing.driver import NotNear, Writer, again, check_moved, fitted, too_far
from taskstore.packing.job import PackJob
from taskstore.packing.options import PackOptions
from taskstore.packing.parts import assembly
from taskstore.packing.parts.agreed import Decided
from taskstore.packing.parts.coded import Parts, code_part
from taskstore.packing.parts.unit_files import Piece, Record
from taskstore.packing.parts.units import Unit, largest_first
from taskstore.packing.writer import Tally, finish, sections_of, with_bits
from taskstore.progress import Meter, silent

Options = TypeVar("Options", PackOptions, AddOptions)


def run(work: Parts, units: Sequence[Unit], meter: Meter, executor: Executor) -> None:
    """Code units, largest first."""
    meter.stage("packing", work.coder.job.family.base.name)
    for unit in executor.map(code_part, work, largest_first(units)):
        meter.add(work.blocks[unit.blocks[0]].block.name, unit.nbytes)


def threads_of(coder: Coder) -> Threads:
    """Return threads of which each may hold a block."""
    found = coder.job.options.executor(len(coder.job.family.tasks), 4)
    return Threads(min(found.jobs, found.in_flight or found.jobs))


def assembled(
    work: Parts,
    draft: Manifest,
    asked: PackOptions,
    folder: Path,
    executor: Executor,
    joiner: Executor,
) -> Manifest:
    """Write the files of a store of parts that are all there; returns its manifest, not sealed.

    `executor` codes once more what is not as near as was `asked` for; `joiner` writes the files.
    Raises NotNear.
    """
    coder, job = work.coder, work.coder.job
    total, records = Tally(len(job.family.tasks)), _records(work)
    assembly.tally(total, records)
    pieces: list[Sequence[Piece]] = [found.pieces for found in records]
    if asked.largest_error is not None:
        bits, more = _refined(work, total, asked, executor)
        stale = {stem for task in bits for stem in names.stems_of(task)}
        pieces = [[p for p in found if p.stem not in stale] for found in pieces] + more
        draft = with_bits(draft, bits)
    files = assembly.files_of(sections_of(draft, job), pieces, job.options.shard_bytes)
    done = assembly.join(folder, files, work.place, joiner)
    job.family.prove()
    check_moved(job, total.moved)
    return finish(folder, job, draft, total, done, coder.share)


def _records(work: Parts) -> list[Record]:
    found = [claims.read(work.place, work.name(unit), Record) for unit in work.units]
    assert None not in found, "a unit without a record"
    return [one for one in found if one is not None]


def _refined(
    work: Parts, total: Tally, asked: PackOptions, executor: Executor
) -> tuple[dict[str, float], list[Sequence[Piece]]]:
    """Code rests once more, and finer, that auto's sample was wrong of; see packing/driver.py."""
    most, job = asked.largest_error, work.coder.job
    assert most is not None
    far, tier = too_far(job, total, asked, most), job.options.tier_names[0]
    bits: dict[str, float] = {}
    pieces: list[Sequence[Piece]] = []
    if far and tier == "rest":
        bits = {name: finer(job.options.bits_of(name), error, most) for name, error in far.items()}
        total.again(bits)
        second = Parts(again(work.coder, bits), work.place, f"{work.folder}-again")
        run(second, second.pending, Meter(silent, 0), executor)
        records = _records(second)
        assembly.tally(total, records)
        pieces = [found.pieces for found in records]
        far = too_far(job, total, asked, most)
    if far:
        raise NotNear({(name, tier) for name in far})
    return bits, pieces


@contextmanager
def writing(
    where: PathLike, command: str, basis: str, options: Options, models: object = None
) -> Iterator[Writer | None]:
    """Yield what writes a store's files on the cluster that was joined; None: there is none.

    Units that are done are kept until the block ends, and taken up; see locations/remote/claims.py.
    """
    cluster = joined()
    if cluster is None:
        yield None
        return
    asked = replace(options, jobs=1, max_memory=PackOptions().max_memory)
    with claims.made_for(where, cluster, command, basis, asked, models) as made:
        yield partial(_written_on, cluster, where, made)


def _written_on(
    cluster: Cluster,
    where: PathLike,
    made: Claims,
    job: PackJob,
    asked: PackOptions,
    folder: Path,
    noted: Callable[[Manifest], Manifest],
) -> Manifest:
    """Code a job's units on a cluster, and write a store's files into a folder beside the store."""
    if job.masks:
        raise OptionError("masks of files are packed by one process; leave the cluster out")
    with fitted(job) as source:
        coder = Coder.of(job, source)
        models = [sampled(model) for model in (job.family.base, *job.family.tasks)]
        decided = Decided.of(coder, Choice(job.options, []))
        work = Parts(coder, made.place, f"{made.folder}/{claims.digest(decided, models)}")
        left = work.pending
        run(work, left, job.meter, cluster)
        draft = noted(manifest_draft.make(job, source.method.options, work.coder.codings))
        return assembled(work, draft, asked, folder, cluster, joiner_of(work, where, cluster))


def joiner_of(work: Parts, target: PathLike, executor: Executor) -> Executor:
    """Return what joins the files of a store: this process, where its folder is not shared."""
    return threads_of(work.coder) if mirror.address_of(target) else executor
