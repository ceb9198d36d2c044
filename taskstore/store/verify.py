"""Prove that a store still holds what was packed."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any

from blake3 import blake3

from taskstore.cluster import joined
from taskstore.errors import (
    ChangedMeanwhile,
    ChecksumMismatch,
    FormatError,
    RemoteError,
    TaskstoreError,
)
from taskstore.executors import Executor, threads
from taskstore.format import manifest_file
from taskstore.format.digests import check_file
from taskstore.format.names import CARD, MANIFEST
from taskstore.locations.base import PathLike
from taskstore.progress import Callback, Meter, silent
from taskstore.public import public
from taskstore.store import original_files
from taskstore.store.assets import read_asset
from taskstore.store.base import BaseSource
from taskstore.store.contents import StoreContents
from taskstore.store.original_files import Original
from taskstore.store.rebuild import ModelReader, own_blocks

_log = logging.getLogger(__name__)


@dataclass
class VerifyReport:
    """What was checked and every problem that was found, one line each."""

    files: int = 1  # the manifest, and those that it lists
    tensors: int = 0
    problems: list[str] = field(default_factory=list)
    unlisted: list[str] = field(default_factory=list)  # files that are not the store's
    left_out: list[str] = field(default_factory=list)  # of an archive's originals, never packed
    lost: list[str] = field(default_factory=list)  # tasks that need a damaged or missing file

    @property
    def ok(self) -> bool:
        return not self.problems

    def to_dict(self) -> dict[str, Any]:
        return {"ok": self.ok, **asdict(self)}


@public
def verify(
    store: StoreContents | PathLike,
    *,
    deep: bool = False,
    jobs: int | None = None,
    progress: Callback = silent,
) -> VerifyReport:
    """Check every listed file, and what assets expand to; with `deep`, rebuild every tensor too.

    Problems are collected, not raised, so one damaged file does not hide another. Raises
    FormatError where the manifest cannot be read, ChangedMeanwhile where problems come from another
    writer, which has replaced the store.

    >>> report = taskstore.verify("numerals", deep=True)
    >>> report.ok, report.problems
    (True, [])
    """
    store = store if isinstance(store, StoreContents) else StoreContents(store)
    files = store.manifest.files
    total = sum(f.bytes for f in files.values()) + (_deep_bytes(store) if deep else 0)
    tasks = store.manifest.tasks.items()
    left_out = [f"{path} of {name}" for name, task in tasks for path in task.left_out or ()]
    report = VerifyReport(unlisted=_unlisted(store), left_out=left_out)
    job = _Job(store, report, joined() or threads(jobs), Meter(progress, total))
    job.meter.stage("checking", "files")
    _log.info("checking %s: %s bytes", store.where, f"{total:,}")
    damaged = list[str]()
    for path, problem in job.executor.map(_problem_of_file, store, files):
        job.report.files += 1
        job.report.problems += [problem] if problem else []
        damaged += [path] if problem else []
        job.meter.add(path, files[path].bytes)
    if deep:
        job.meter.stage("rebuilding", "base")
        _verify_models(job) if joined() is None else _verify_apart(job)
    if damaged:
        report.lost = [t for t in store.tasks if set(damaged) & set(store.files_of(None, t))]
    if job.report.problems:
        with suppress(FormatError):
            _check_still_there(store, job.report)
    return job.report


def _check_still_there(store: StoreContents, report: VerifyReport) -> None:
    """Raise ChangedMeanwhile, but for the card of a version that another has replaced."""
    try:
        store.check_unchanged()
    except ChangedMeanwhile:
        report.problems = [line for line in report.problems if not line.startswith(CARD)]
        if report.problems:
            raise


@dataclass(frozen=True)
class _Job:
    store: StoreContents
    report: VerifyReport
    executor: Executor
    meter: Meter


def _problem_of_file(store: StoreContents, path: str) -> tuple[str, str | None]:
    try:
        store.have([path])
        check_file(store.path, path, store.manifest.files[path])
        folder, _, digest = path.partition("/")
        if folder == "assets" and digest in store.manifest.assets:
            read_asset(store.path, store.manifest, digest)
    except TaskstoreError as error:
        if isinstance(error, RemoteError):
            raise
        return path, str(error)
    return path, None


def _deep_bytes(store: StoreContents) -> int:
    from taskstore.format.dtypes import nbytes

    base = sum(nbytes(t.dtype, t.shape) for t in store.manifest.tensors.values())
    return base * len(_models(store))


def _models(store: StoreContents) -> list[tuple[str | None, str | None]]:
    """List (task, tier) of everything that can be rebuilt; (None, None) is the base."""
    tasks = store.manifest.tasks
    tiers = {name: task.all_tiers or (None,) for name, task in tasks.items()}
    return [(None, None), *((name, tier) for name in tasks for tier in tiers[name])]


def _unlisted(store: StoreContents) -> list[str]:
    listed = {*store.manifest.files, MANIFEST, CARD}
    listed.update(*(older.files for older in manifest_file.kept(store.path).values()))
    return [p for p in store.location.names() if p not in listed and not p.startswith(".")]


def _verify_models(job: _Job) -> None:
    try:
        with job.store.open_base(job.executor) as base:
            for task, tier in _models(job.store):
                job.report.problems += _verify_model(job, task, tier, base)
    except TaskstoreError as error:
        job.report.problems.append(str(error))


def _verify_apart(job: _Job) -> None:
    """Check each model in another process."""
    size = _deep_bytes(job.store) // len(_models(job.store))
    for name, report in job.executor.map(_verified, job.store, _models(job.store)):
        job.report.tensors += report.tensors
        job.report.problems += [p for p in report.problems if p not in job.report.problems]
        job.meter.add(name, size)


def _verified(store: StoreContents, model: tuple[str | None, str | None]) -> tuple[str, Any]:
    job = _Job(store, VerifyReport(), threads(1), Meter(silent, 0))
    try:
        with store.open_base(job.executor) as base:
            job.report.problems += _verify_model(job, *model, base)
    except TaskstoreError as error:
        job.report.problems.append(str(error))
    return model[0] or "base", job.report


def _verify_model(job: _Job, task: str | None, tier: str | None, base: BaseSource) -> Iterator[str]:
    try:
        with job.store.reader(task, base, tier) as reader:
            try:
                files = original_files.read(job.store.path, job.store.manifest, task, tier)
            except FormatError as error:
                yield str(error)
                files = []
            for file in files or (None,):
                yield from _verify_tensors(job, reader, file)
            if task is not None and reader.adapted is not None:
                yield from _verify_adapter(job, reader, task)
    except TaskstoreError as error:
        yield str(error)


def _verify_adapter(job: _Job, reader: ModelReader, task: str) -> Iterator[str]:
    """Check the adapter's own tensors, and the file that they are in."""
    file = original_files.read_adapter(job.store.path, job.store.manifest, task)
    adapter = job.store.manifest.tasks[task].adapter
    state, own = blake3(file.head if file else b""), adapter.tensors if adapter else {}
    assert reader.adapted is not None
    for _, bits_N in reader.adapted.blocks(file.tensors if file else own, reader.label):
        state.update(bits_N.view("u1"))
    job.report.tensors += len(own)
    if file and state.hexdigest() != file.recorded.blake3:
        what = f"{file.name!r} of {reader.label}"
        yield str(ChecksumMismatch(what, file.recorded.blake3, state.hexdigest()))


def _verify_tensors(job: _Job, reader: ModelReader, file: Original | None) -> Iterator[str]:
    """Check a weight file's tensors, and if all are good the whole file; None: all tensors."""
    state, good = blake3(file.head) if file else None, True
    for name in file.tensors if file else reader.own_tensors:
        job.report.tensors += 1
        problem = _verify_tensor(job, reader, name, state)
        if problem:
            good = False
            yield problem
    if file and state and good and state.hexdigest() != file.recorded.blake3:
        what = f"{file.name!r} of {reader.label}"
        yield str(ChecksumMismatch(what, file.recorded.blake3, state.hexdigest()))


def _verify_tensor(job: _Job, reader: ModelReader, name: str, file: Any) -> str | None:
    try:
        for _, bits_N in own_blocks(reader, [name], job.executor):
            if file:
                file.update(bits_N.view("u1"))
            job.meter.add(name, bits_N.nbytes)
    except ChecksumMismatch as error:
        return str(error)
    except TaskstoreError as error:
        return f"{reader.label}, {error}"
    return None
