"""One pack by several processes: each codes its units, the last makes the store of them.

The same bytes come out as of one process, whatever the number of workers. Nothing but the place of
parts is shared: a disk that all see.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from taskstore.cluster import connect
from taskstore.errors import InputError, OptionError, OutputError
from taskstore.executors import Executor, Threads
from taskstore.format import names
from taskstore.format.manifest_file import not_of_a_store
from taskstore.locations import dry, publish
from taskstore.locations.base import Location, PathLike
from taskstore.locations.files import LocalFolder, absolute
from taskstore.locations.remote.mirror import need_folder
from taskstore.packing import manifest_draft
from taskstore.packing.auto.choose import finer
from taskstore.packing.block_coder import Coder
from taskstore.packing.driver import again, check_moved, every, opened, too_far
from taskstore.packing.job import expected_bytes
from taskstore.packing.options import PackOptions
from taskstore.packing.parts import assembly, unit_files
from taskstore.packing.parts.agreed import (
    ASKED,
    Asked,
    Decided,
    agree,
    asked_of,
    coder_of,
    folder_of,
)
from taskstore.packing.parts.coded import Parts, code_part
from taskstore.packing.parts.unit_files import Piece, Record
from taskstore.packing.parts.units import Unit, largest_first, of_part
from taskstore.packing.report import PackReport
from taskstore.packing.writer import Tally, finish, sections_of, with_bits
from taskstore.progress import Callback, Meter, silent
from taskstore.public import public

_log = logging.getLogger(__name__)
PARTS = ".parts"
SHARED = (
    "parts are joined in a folder that all machines see: pack into one, and `taskstore copy` the "
    "store to the address"
)


@dataclass(frozen=True)
class PartReport:
    """units: of this part; coded: of these, now; missing: of the whole pack, still."""

    path: Path
    units: int
    coded: int
    missing: int


def folder_of_parts(target: PathLike) -> Path:
    """Return where the parts of a store lie: beside it."""
    path = absolute(target)
    return path.with_name(path.name + PARTS)


@public
def pack_part(
    base: PathLike,
    finetunes: Mapping[str, PathLike],
    target: PathLike,
    part: int,
    parts: int,
    options: PackOptions | None = None,
    progress: Callback = silent,
) -> PartReport:
    """Code part `part` of `parts`, from 1, of a store; `seal` makes the store when all are done.

    A part that was interrupted goes on where it was. Raises what `pack` raises, and OptionError
    for a part that there is not.
    """
    need_folder(target, SHARED)
    options = options or PackOptions()
    if not 1 <= part <= parts:
        raise OptionError(f"part {part}/{parts}: give one from 1/{parts} to {parts}/{parts}")
    publish.check_target(absolute(target), overwrite=options.overwrite, foreign=not_of_a_store)
    finetunes, _ = every(finetunes, options)
    place = LocalFolder(folder_of_parts(target))
    with closing(opened(base, finetunes, options)) as family:
        dry.stop()
        asked = agree(place, Asked.of(base, finetunes, family, options, parts))
        with coder_of(place, family, asked, options, progress) as (coder, decided):
            work = Parts(coder, place, folder_of(asked, decided))
            mine = of_part(work.units, part, parts)
            there = {unit.number for unit in work.pending}
            todo = [unit for unit in mine if unit.number in there]
            run(work, todo, progress, threads_of(coder))
            return PartReport(folder_of_parts(target), len(mine), len(todo), len(work.pending))


@public
def seal(
    target: PathLike,
    options: PackOptions | None = None,
    progress: Callback = silent,
) -> PackReport:
    """Make the store `target` of its parts, which are removed.

    Of the `options`, `jobs`, `max_memory` and `overwrite` count. Raises InputError where parts are
    missing; it says which.
    """
    need_folder(target, SHARED)
    options, place = options or PackOptions(), LocalFolder(folder_of_parts(target))
    if not folder_of_parts(target).is_dir():
        raise InputError(
            f"no such parts: {folder_of_parts(target)}; code them with `taskstore pack ... "
            f"--part 1/N --to {target}`"
        )
    asked = asked_of(place)
    own = {"jobs": options.jobs, "max_memory": options.max_memory, "overwrite": options.overwrite}
    options = replace(asked.options, **own)  # type: ignore[arg-type]
    with closing(opened(asked.base, asked.finetunes, options)) as family:
        asked.check(family)
        with coder_of(place, family, asked, options, progress) as (coder, decided):
            work = Parts(coder, place, folder_of(asked, decided))
            check_whole(work, asked)
            return sealed(work, decided, Path(target), options)


@public
def pack_on(
    address: str,
    base: PathLike,
    finetunes: Mapping[str, PathLike],
    target: PathLike,
    options: PackOptions | None = None,
    progress: Callback = silent,
    *,
    resume: bool = False,
) -> PackReport:
    """Pack a family on the machines of a Ray cluster, which all see the same paths.

    `address` is HOST:PORT, or "auto" for the cluster that this machine belongs to.
    `resume` takes up the parts of a run that died. Raises what `pack` raises, and OutputError for
    parts that are there otherwise.
    """
    need_folder(target, SHARED)
    options, path, cluster = options or PackOptions(), absolute(target), connect(address)
    publish.check_target(path, overwrite=options.overwrite, foreign=not_of_a_store)
    finetunes, notes = every(finetunes, options)
    place = LocalFolder(folder_of_parts(path))
    with closing(opened(base, finetunes, options)) as family:
        dry.stop()
        with publish.alone(path):
            if (folder_of_parts(path) / ASKED).exists() and not resume:
                raise OutputError(
                    f"{folder_of_parts(path)} has parts of a run that did not end: resume it with "
                    "`taskstore pack ... --resume`, or remove the folder"
                )
            asked = agree(place, Asked.of(base, finetunes, family, options, 1))
            with coder_of(place, family, asked, options, progress) as (coder, decided):
                work = Parts(coder, place, folder_of(asked, decided))
                run(work, work.pending, progress, cluster)
                report = sealed(work, decided, path, options, cluster)
    return replace(report, path=Path(target), warnings=[*report.warnings, *notes])


def run(work: Parts, units: Sequence[Unit], progress: Callback, executor: Executor) -> None:
    """Code units, largest first."""
    meter = Meter(progress, sum(unit.nbytes for unit in units))
    meter.stage("packing", work.coder.job.family.base.name)
    for unit in executor.map(code_part, work, largest_first(units)):
        meter.add(work.blocks[unit.blocks[0]].block.name, unit.nbytes)


def threads_of(coder: Coder) -> Threads:
    """Return threads of which each may hold a block."""
    found = coder.job.options.executor(len(coder.job.family.tasks), 4)
    return Threads(min(found.jobs, found.in_flight or found.jobs))


def check_whole(work: Parts, asked: Asked) -> None:
    """Raise InputError, with the parts to run again, unless every unit is done."""
    left = {unit.number for unit in work.pending}
    if not left:
        return
    lacking = [
        part
        for part in range(1, asked.parts + 1)
        if left & {unit.number for unit in of_part(work.units, part, asked.parts)}
    ]
    shown = ", ".join(f"part {part}/{asked.parts}" for part in lacking[:8])
    more = f" and {len(lacking) - 8} more" if len(lacking) > 8 else ""
    raise InputError(
        f"{len(left)} of {len(work.units)} units are not done: run {shown}{more} again"
    )


def sealed(
    work: Parts,
    decided: Decided,
    target: Path,
    options: PackOptions,
    executor: Executor | None = None,
) -> PackReport:
    """Make a store of parts that are all there. `executor`: codes and joins; None: threads."""
    coder, job = work.coder, work.coder.job
    dry.note(expected_bytes(job))
    with publish.folder(target, overwrite=options.overwrite, foreign=not_of_a_store) as folder:
        draft = manifest_draft.make(job, coder.source.method.options, coder.codings)
        total, records = Tally(len(job.family.tasks)), _records(work)
        assembly.tally(total, records)
        pieces: list[Sequence[Piece]] = [found.pieces for found in records]
        if options.largest_error is not None:
            bits, more = _refined(work, total, options, executor or threads_of(coder))
            stale = {stem for task in bits for stem in names.stems_of(task)}
            pieces = [[p for p in found if p.stem not in stale] for found in pieces] + more
            draft = with_bits(draft, bits)
        files = assembly.files_of(sections_of(draft, job), pieces, job.options.shard_bytes)
        done = assembly.join(folder, files, work.place, executor or threads_of(coder))
        job.family.prove()
        check_moved(job, total.moved)
        found = finish(folder, job, draft, total, done, coder.share)
        manifest = manifest_draft.seal(folder, found)
        size = (folder / names.MANIFEST).stat().st_size
    _remove(work.place, target)
    report = PackReport.of(target, manifest, size, job.family)
    same = [f"{b}: the same model as {a}, bit for bit" for a, b in job.twins]
    warnings = [*report.warnings, *same]
    return replace(report, warnings=warnings, notes=decided.notes, others=decided.others)


def _records(work: Parts) -> list[Record]:
    found = [unit_files.read(work.place, work.name(unit), Record) for unit in work.units]
    assert None not in found, "a unit without a record"
    return [one for one in found if one is not None]


def _refined(
    work: Parts, total: Tally, options: PackOptions, executor: Executor
) -> tuple[dict[str, float], list[Sequence[Piece]]]:
    """Code rests once more, and finer, that auto's sample was wrong of; see packing/driver.py."""
    most, job = options.largest_error, work.coder.job
    assert most is not None
    far, tier = too_far(job, total, options, most), job.options.tier_names[0]
    bits: dict[str, float] = {}
    pieces: list[Sequence[Piece]] = []
    if far and tier == "rest":
        bits = {name: finer(job.options.bits_of(name), error, most) for name, error in far.items()}
        total.again(bits)
        second = Parts(again(work.coder, bits), work.place, f"{work.folder}-again")
        run(second, second.pending, silent, executor)
        records = _records(second)
        assembly.tally(total, records)
        pieces = [found.pieces for found in records]
        far = too_far(job, total, options, most)
    if far:
        raise InputError(
            f"{', '.join(far)}: no {tier} is as near as `tiers` auto was asked for; remove the "
            'parts and pack with tiers="exact", or with a larger error'
        )
    return bits, pieces


def _remove(place: Location, target: Path) -> None:
    """Remove the parts: what was agreed last, so that a seal that is killed can be run again."""
    for name in sorted(place.names(), reverse=True):
        place.delete(name)
    with suppress(OSError):
        folder = folder_of_parts(target)
        for path in sorted(folder.iterdir()):
            path.rmdir()
        folder.rmdir()
