"""Make a store's files of the parts of a pack, and code parts for a store that is changed."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from taskstore.cluster import Cluster, joined
from taskstore.errors import OptionError
from taskstore.executors import Executor, Threads
from taskstore.format import names
from taskstore.format.manifest import Manifest
from taskstore.locations.base import Location, PathLike
from taskstore.locations.files import LocalFolder, absolute
from taskstore.locations.remote import mirror
from taskstore.packing import manifest_draft
from taskstore.packing.auto.choose import finer
from taskstore.packing.block_coder import Coder
from taskstore.packing.driver import NotNear, Writer, again, check_moved, fitted, too_far
from taskstore.packing.elsewhere.sending import bucket
from taskstore.packing.job import PackJob
from taskstore.packing.options import PackOptions
from taskstore.packing.parts import assembly, unit_files
from taskstore.packing.parts.coded import Parts, code_part
from taskstore.packing.parts.unit_files import Piece, Record
from taskstore.packing.parts.units import Unit, largest_first
from taskstore.packing.writer import Tally, finish, sections_of, with_bits
from taskstore.progress import Meter, silent

PARTS = ".parts"


def where_parts_lie(target: PathLike) -> str:
    """Return the folder or the address of the parts of a store: beside it. Raises OptionError."""
    address = mirror.address_of(target)
    if address and not address.path:
        raise OptionError(
            f"{address}: parts lie beside a store; name a prefix, as {address}/family"
        )
    return f"{address or absolute(target)}{PARTS}"


def place_of_parts(target: PathLike) -> Location:
    """Open the place of the parts of a store, in a folder or a bucket.

    Raises OptionError for a repository of a hub, or OSError.
    """
    address = mirror.address_of(where := where_parts_lie(target))
    return bucket(address) if address else LocalFolder(Path(where))


def remove_parts(target: PathLike) -> None:
    """Remove the parts: what was agreed last, so that a seal that is killed can be run again."""
    place = place_of_parts(target)
    for name in sorted(place.names(), reverse=True):
        place.delete(name)
    _remove_folder(target)


def _remove_folder(target: PathLike) -> None:
    if not mirror.address_of(target):
        with suppress(OSError):
            folder = Path(where_parts_lie(target))
            for path in sorted(folder.iterdir()):
                path.rmdir()
            folder.rmdir()


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
    found = [unit_files.read(work.place, work.name(unit), Record) for unit in work.units]
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


def writer(where: PathLike) -> Writer | None:
    """Return what writes the files of a store at `where` on the cluster that was joined, if any."""
    cluster = joined()
    return partial(_written_on, cluster, where) if cluster else None


def _written_on(
    cluster: Cluster,
    where: PathLike,
    job: PackJob,
    asked: PackOptions,
    folder: Path,
    noted: Callable[[Manifest], Manifest],
) -> Manifest:
    """Code a job's units on a cluster, and write a store's files into a folder beside the store."""
    if job.masks:
        raise OptionError("masks of files are packed by one process; leave the cluster out")
    place = place_of_parts(where)
    mine = f"units-{secrets.token_hex(8)}"
    with fitted(job) as source:
        work = Parts(Coder.of(job, source), place, mine)
        try:
            run(work, work.units, job.meter, cluster)
            draft = noted(manifest_draft.make(job, source.method.options, work.coder.codings))
            return assembled(work, draft, asked, folder, cluster, joiner_of(work, where, cluster))
        finally:
            for name in [name for name in place.names() if name.startswith(mine)]:
                place.delete(name)
            _remove_folder(where)


def joiner_of(work: Parts, target: PathLike, executor: Executor) -> Executor:
    """Return what joins the files of a store: this process, where its folder is not shared."""
    return threads_of(work.coder) if mirror.address_of(target) else executor
