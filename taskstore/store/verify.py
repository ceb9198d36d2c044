"""Prove that a store still holds what was packed."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from typing import Any

from taskstore.cluster import joined
from taskstore.errors import (
    ChangedMeanwhile,
    FormatError,
    RemoteError,
    TaskstoreError,
)
from taskstore.executors import Executor, threads
from taskstore.format import manifest_file
from taskstore.format.digests import check_file
from taskstore.format.dtypes import nbytes
from taskstore.format.names import CARD, MANIFEST
from taskstore.locations.base import PathLike
from taskstore.locations.remote import claims
from taskstore.progress import Callback, Meter, silent
from taskstore.public import public
from taskstore.store.assets import read_asset
from taskstore.store.contents import StoreContents

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
    meter = Meter(progress, total)
    meter.stage("checking", "files")
    _log.info("checking %s: %s bytes", store.where, f"{total:,}")
    damaged = list[str]()
    with _executor(store, jobs) as executor:
        for path, problem in executor.map(_problem_of_file, store, files):
            report.files += 1
            report.problems += [problem] if problem else []
            damaged += [path] if problem else []
            meter.add(path, files[path].bytes)
        if deep:
            from taskstore.store.proof import prove_models  # loads NumPy and the loops

            meter.stage("rebuilding", "base")
            report.tensors, problems = prove_models(store, _models(store), executor, meter)
            report.problems += problems
    if damaged:
        report.lost = [t for t in store.tasks if set(damaged) & set(store.files_of(None, t))]
    if report.problems:
        with suppress(FormatError):
            _check_still_there(store, report)
    return report


@contextmanager
def _executor(store: StoreContents, jobs: int | None) -> Iterator[Executor]:
    """Yield threads, or the cluster that was joined: what it finds is kept until all is found."""
    cluster = joined()
    if cluster is None:
        yield threads(jobs)
        return
    with claims.judged(cluster, "verify", store.where, store.version) as made:
        yield made


def _check_still_there(store: StoreContents, report: VerifyReport) -> None:
    """Raise ChangedMeanwhile, but for the card of a version that another has replaced."""
    try:
        store.check_unchanged()
    except ChangedMeanwhile:
        report.problems = [line for line in report.problems if not line.startswith(CARD)]
        if report.problems:
            raise


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
