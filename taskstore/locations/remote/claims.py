"""What a run on a cluster has done, kept until the run ends: one that died is taken up.

What makes something keeps it beside its target, in `TARGET.parts`, a folder or a prefix that all
machines see. What only judges keeps its results in this machine's cache: a store that is read need
not be writable. `resume` of the cluster that was joined says whether what is there is used.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from blake3 import blake3

from taskstore.cluster import Cluster
from taskstore.errors import ChangedMeanwhile, FormatError, InputError, OptionError, OutputError
from taskstore.locations import dry
from taskstore.locations.base import Location, PathLike
from taskstore.locations.files import PARTIAL, LocalFolder, absolute
from taskstore.locations.remote import mirror
from taskstore.locations.remote.addresses import HUB
from taskstore.locations.remote.bucket import Bucket

PARTS = ".parts"
ASKED, WORK, DONE = "asked", "work", "done"  # in this order: what was asked is removed last
S = TypeVar("S")
U = TypeVar("U")
R = TypeVar("R")
T = TypeVar("T")


class Run(msgspec.Struct, frozen=True, array_like=True):
    """A run whose work is kept: its command, what it changes, and a digest of what was asked."""

    command: str
    basis: str
    asked: str


@dataclass(frozen=True)
class Claims:
    """The executor of one run, on a cluster; `folder` of `place` has what is done of its work.

    Units and results are plain data (tuples come back as lists), and no two units are the same.
    """

    cluster: Cluster
    place: Location
    folder: str

    @property
    def jobs(self) -> int:
        return self.cluster.jobs

    def map(self, function: Callable[[S, U], R], shared: S, units: Iterable[U]) -> Iterator[R]:
        """`function(shared, unit)` for each unit that is not done yet; all results in order."""
        there = {*self.place.names()}
        named = [(self._note(function.__name__, unit), unit) for unit in units]
        left = [unit for name, unit in named if name not in there]
        found = iter(self.cluster.map(function, shared, left))
        for name, _ in named:
            if name not in there:
                self.place.put(name, encoded(next(found)))
            known: Any = read(self.place, name, Any)
            yield known

    def _note(self, what: str, unit: object) -> str:
        return f"{self.folder}/{DONE}-{what}-{digest(unit)}"


@contextmanager
def made_for(
    target: PathLike, cluster: Cluster, command: str, basis: str, *asked: object
) -> Iterator[Claims]:
    """Keep the work of a command that writes `target` until the block ends without an exception.

    `asked` is what the work hangs on, `basis` what it changes: work for another basis is of no use,
    and goes. Raises OutputError where work of another run is there that this one does not take up,
    InputError where it was asked for something else.
    """
    place, mine = place_of_parts(target), Run(command, basis, digest(*asked))
    claims = Claims(cluster, place, f"{WORK}-{mine.asked}")
    if dry.on():
        yield claims
        return
    _begin(place, mine, target, resume=cluster.resume)
    try:
        yield claims
    except ChangedMeanwhile:
        remove_parts(target)
        raise
    except Exception:
        if {*place.names()} <= {ASKED}:  # there is nothing to take up
            remove_parts(target)
        raise
    remove_parts(target)


def _begin(place: Location, mine: Run, target: PathLike, *, resume: bool) -> None:
    there = None
    with suppress(FormatError):  # what `pack` has put
        there = read(place, ASKED, Run)
    if there is not None and there.command == mine.command and there.basis != mine.basis:
        remove_parts(target)
    try:
        place.put_if_unchanged(ASKED, encoded(mine), None)
    except ChangedMeanwhile:
        where = where_parts_lie(target)
        if not resume:
            command = there.command if there else "pack"
            raise OutputError(
                f"{where} has work of a run that did not end: resume it with the same models "
                f"and options (`taskstore {command} ... --resume`), or remove it"
            ) from None
        if there != mine:
            raise InputError(
                f"{where} has work of another run, of {there.command if there else 'pack'}: give "
                "the same command, models and options, or remove it"
            ) from None


@contextmanager
def judged(cluster: Cluster, *asked: object) -> Iterator[Claims]:
    """Keep results in this machine's cache until the block ends without an exception."""
    key = digest(*asked)
    folder = mirror.cache() / "runs" / key
    if not cluster.resume:
        shutil.rmtree(folder, ignore_errors=True)
    yield Claims(cluster, LocalFolder(folder.parent), key)
    shutil.rmtree(folder, ignore_errors=True)


def where_parts_lie(target: PathLike) -> str:
    """Return the folder or the address of the parts of a target: beside it. Raises OptionError."""
    address = mirror.address_of(target)
    if address and not address.path:
        raise OptionError(
            f"{address}: parts lie beside a store; name a prefix, as {address}/family"
        )
    return f"{address or absolute(target)}{PARTS}"


def place_of_parts(target: PathLike) -> Location:
    """Open the place of the parts of a target, in a folder or a bucket.

    Raises OptionError for a repository of a hub, or OSError.
    """
    address = mirror.address_of(where := where_parts_lie(target))
    if address is None:
        return LocalFolder(Path(where))
    if address.scheme == HUB:
        raise OptionError(f"{address}: a repository of the hub is written by `taskstore push`")
    return Bucket(address)


def remove_parts(target: PathLike) -> None:
    """Remove the parts: what was agreed last, so that a seal that is killed can be run again."""
    place = place_of_parts(target)
    for name in sorted(place.names(), reverse=True):
        place.delete(name)
    remove_folder(target)


def remove_folder(target: PathLike) -> None:
    """Remove the folder of parts, where it is one of this machine and holds none."""
    if not mirror.address_of(target):
        root = Path(where_parts_lie(target))
        for path in root.rglob(f".*{PARTIAL}"):  # of a writer that was killed
            path.unlink(missing_ok=True)
        for path in (*sorted(root.rglob("*"), reverse=True), root):
            with suppress(OSError):
                path.rmdir()


def digest(*record: object) -> str:
    return blake3(encoded(record)).hexdigest(16)


def encoded(record: object) -> bytes:
    """Return plain data as bytes, the same for the same data."""
    return msgspec.msgpack.encode(record, enc_hook=str, order="deterministic")


def read(place: Location, name: str, kind: type[T]) -> T | None:
    """Return what a file holds, None where it is not there; raises FormatError."""
    try:
        file = place.open(name)
    except FileNotFoundError:
        return None
    try:
        return msgspec.msgpack.decode(file.read(0, file.size), type=kind, dec_hook=_made)
    except (msgspec.MsgspecError, ValueError) as error:
        raise FormatError(
            f"{name} of the parts is damaged ({error}): remove the parts and pack again"
        ) from None
    finally:
        file.close()


def _made(kind: type[Any], value: object) -> Any:
    """Make what msgpack has no form for out of its text: a path."""
    return kind(value)
