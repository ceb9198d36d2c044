"""One pack by several processes: each codes its units, the last makes the store of them.

The same bytes come out as of one process, whatever the number of workers. Nothing but the place of
parts is shared: a disk that all see, or a bucket.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, replace

from taskstore.cluster import connect
from taskstore.errors import InputError, OptionError, OutputError
from taskstore.executors import Executor
from taskstore.format import names
from taskstore.locations import dry, publish
from taskstore.locations.base import PathLike
from taskstore.locations.files import absolute
from taskstore.locations.remote.claims import (
    ASKED,
    place_of_parts,
    remove_parts,
    where_parts_lie,
)
from taskstore.locations.remote.mirror import address_of
from taskstore.packing import manifest_draft
from taskstore.packing.driver import NotNear, every, opened
from taskstore.packing.elsewhere.sending import check_target, store_folder
from taskstore.packing.job import expected_bytes
from taskstore.packing.options import PackOptions
from taskstore.packing.parts.agreed import (
    Asked,
    Decided,
    agree,
    asked_of,
    coder_of,
    folder_of,
)
from taskstore.packing.parts.coded import Parts
from taskstore.packing.parts.sealing import (
    assembled,
    joiner_of,
    run,
    threads_of,
)
from taskstore.packing.parts.units import Unit, of_part
from taskstore.packing.report import PackReport
from taskstore.progress import Callback, Meter, silent
from taskstore.public import public
from taskstore.store import card


@dataclass(frozen=True)
class PartReport:
    """units: of this part; coded: of these, now; missing: of the whole pack, still."""

    path: str
    units: int
    coded: int
    missing: int


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
    options = options or PackOptions()
    if not 1 <= part <= parts:
        raise OptionError(f"part {part}/{parts}: give one from 1/{parts} to {parts}/{parts}")
    place = place_of_parts(target)
    check_target(target, overwrite=options.overwrite)
    finetunes, _ = every(finetunes, options)
    with closing(opened(base, finetunes, options)) as family:
        dry.stop()
        asked = agree(place, Asked.of(base, finetunes, family, options, parts))
        with coder_of(place, family, asked, options, progress) as (coder, decided):
            work = Parts(coder, place, folder_of(asked, decided))
            mine = of_part(work.units, part, parts)
            there = {unit.number for unit in work.pending}
            todo = [unit for unit in mine if unit.number in there]
            run(work, todo, meter_of(progress, todo), threads_of(coder))
            left = len(work.pending)
            return PartReport(where_parts_lie(target), len(mine), len(todo), left)


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
    options, place = options or PackOptions(), place_of_parts(target)
    if next(iter(place.names()), None) is None:
        raise InputError(
            f"no such parts: {where_parts_lie(target)}; code them with `taskstore pack ... "
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
            return sealed(work, decided, target, options, threads_of(coder))


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
    options, cluster = options or PackOptions(), connect(address)
    check_target(target, overwrite=options.overwrite)
    finetunes, notes = every(finetunes, options)
    place, parts = place_of_parts(target), where_parts_lie(target)
    with closing(opened(base, finetunes, options)) as family:
        dry.stop()
        with nullcontext() if address_of(target) else publish.alone(absolute(target)):
            if not resume and ASKED in place.names():
                raise OutputError(
                    f"{parts} has parts of a run that did not end: resume it with "
                    "`taskstore pack ... --resume`, or remove them"
                )
            asked = agree(place, Asked.of(base, finetunes, family, options, 1))
            with coder_of(place, family, asked, options, progress) as (coder, decided):
                work = Parts(coder, place, folder_of(asked, decided))
                left = work.pending
                run(work, left, meter_of(progress, left), cluster)
                report = sealed(work, decided, target, options, cluster)
    return replace(report, warnings=[*report.warnings, *notes])


def meter_of(progress: Callback, units: Sequence[Unit]) -> Meter:
    return Meter(progress, sum(unit.nbytes for unit in units))


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
    work: Parts, decided: Decided, target: PathLike, options: PackOptions, executor: Executor
) -> PackReport:
    """Make a store of parts that are all there, and remove these. `executor`: codes and joins."""
    coder, job = work.coder, work.coder.job
    dry.note(expected_bytes(job))
    with store_folder(target, overwrite=options.overwrite) as folder:
        draft = manifest_draft.make(job, coder.source.method.options, coder.codings)
        joiner = joiner_of(work, target, executor)
        try:
            found = assembled(work, draft, options, folder, executor, joiner)
        except NotNear as error:
            far = sorted({name for name, _ in error.refused})
            raise InputError(
                f"{', '.join(far)}: no {job.options.tier_names[0]} is as near as `tiers` auto was "
                'asked for; remove the parts and pack with tiers="exact", or with a larger error'
            ) from None
        manifest = card.seal(folder, found)
        size = (folder / names.MANIFEST).stat().st_size
    remove_parts(target)
    report = PackReport.of(target, manifest, size, job.family)
    same = [f"{b}: the same model as {a}, bit for bit" for a, b in job.twins]
    warnings = [*report.warnings, *same]
    return replace(report, warnings=warnings, notes=decided.notes, others=decided.others)
