"""Put a store into a repository of a hub: one commit, so that nobody ever sees half of it.

Large files are sent first; the hub shows none of them before the commit. The commit is made only if
the branch is still what was looked at.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from blake3 import blake3
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, constants, errors

from taskstore.errors import BadName, FormatError, InputError, OptionError
from taskstore.executors import threads
from taskstore.format.manifest import MAX_BYTES, File, from_bytes
from taskstore.format.names import CARD, MANIFEST
from taskstore.locations import dry, ownership
from taskstore.locations.base import PathLike
from taskstore.locations.remote.addresses import HUB, Address, parse
from taskstore.locations.remote.hub_errors import explained, settled
from taskstore.locations.remote.repository import Repository, api, without_bars
from taskstore.progress import Callback, Meter, silent
from taskstore.public import public
from taskstore.store import Store
from taskstore.store.store import opened

_log = logging.getLogger(__name__)
_TOGETHER = 8  # files that are sent between two reports of progress


@dataclass(frozen=True)
class PushReport:
    """`url` shows the commit, or the pull request; `bytes` are those of the files it changed.

    sent, unchanged, removed   files of the store that the commit changed, left, took away
    """

    repository: str
    url: str
    sent: int
    unchanged: int
    removed: int
    bytes: int
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        return vars(self) | {"notes": list(self.notes)}


def repository_of(target: PathLike) -> Address:
    """Return the repository that a user means; raises OptionError for what is none."""
    try:
        found = parse(target)
    except BadName as error:
        raise OptionError(str(error)) from None
    text = str(target)
    if found is None and text.count("/") == 1 and not text.startswith((".", "/", "~")):
        found = parse(f"{HUB}://{text}")  # a folder of that name is no repository
    if found is None or found.scheme != HUB or "/" not in found.place or found.path:
        raise OptionError(f"{text!r} is no repository of the hub: org/name, or hf://org/name")
    return found


@public
def push(
    store: Store | PathLike,
    target: str,
    *,
    private: bool = False,
    revision: str | None = None,
    create_pr: bool = False,
    jobs: int | None = None,
    progress: Callback = silent,
) -> PushReport:
    """Put a store into the repository org/name, which is made where it is not there.

    Files that are there already are not sent. `revision` is a branch, which is made too;
    `create_pr` proposes the commit instead. Every file is checked first. Raises FormatError or
    ChecksumMismatch for a damaged store, InputError for `private` and a repository that is public,
    RemoteError, ChangedMeanwhile where somebody else committed meanwhile; the repository then shows
    what it showed before.

    >>> taskstore.push("family", "org/family", private=True)  # doctest: +SKIP
    """
    address, store = repository_of(target), opened(store)
    if revision is not None:
        address = address.at(revision)
    files = store.manifest.files
    store.check_files(files, threads(jobs))
    dry.note(
        also=[
            f"would send at most {sum(f.bytes for f in files.values()):,} bytes to {address.place}"
        ]
    )
    dry.stop()
    _prepare(address, private)
    place = Repository(address)
    before = _files_of(place)
    here = [*files, *([CARD] if CARD not in files and (store.path / CARD).is_file() else ())]
    listed = [name for name in files if before.get(name) == files[name]]
    same = threads(jobs).map(_is_same, (place, store.path), listed)
    there = {name for name, is_same in zip(listed, same, strict=True) if is_same}
    notes = []
    if (card := _card(place)) is not None:
        if _is_own(card, before.get(CARD)):
            if CARD in here and card == (store.path / CARD).read_bytes():
                there.add(CARD)
        else:
            there.add(CARD)
            notes.append(f"{CARD} was edited on the hub and stays; remove it there, and push again")
    new = {name: store.path / name for name in (*here, MANIFEST) if name not in there}
    gone = [name for name in before if name in place.sizes() and name not in (*here, CARD)]
    if set(new) == {MANIFEST} and not gone and _holds(place, store.path / MANIFEST):
        url = f"{constants.ENDPOINT}/{address.place}/tree/{place.commit}"
        return PushReport(address.place, url, 0, len(here) + 1, 0, 0, notes)
    _log.info("pushing %d files to %s", len(new), place.address)
    sent = sum(path.stat().st_size for path in new.values())
    additions = [CommitOperationAdd(name, path) for name, path in sorted(new.items())]
    _send_large(place, address, additions, Meter(progress, sent), create_pr)
    removals = [CommitOperationDelete(name) for name in gone]
    words = f"Store of {len(store.tasks)} tasks ({store.version[:12]})"
    url = place.send([*additions, *removals], words, parent=place.commit, create_pr=create_pr)
    return PushReport(
        address.place, url, len(new), len(here) + 1 - len(new), len(gone), sent, notes
    )


def _prepare(address: Address, private: bool) -> None:
    """Make the repository, and the branch, unless they are there."""
    hub = api()
    with settled(address), explained(address):
        try:
            is_public = hub.repo_info(address.place).private is False
        except errors.RepositoryNotFoundError:
            hub.create_repo(address.place, private=private, exist_ok=True)
            is_public = False
        if private and is_public:
            raise InputError(
                f"{address.place} is there, and everybody may read it: make it private first, at "
                f"{constants.ENDPOINT}/{address.place}/settings, or do not ask for a private one"
            )
        branch = address.revision
        if branch and not branch.startswith("refs/"):
            try:
                hub.repo_info(address.place, revision=branch)
            except errors.RevisionNotFoundError:
                hub.create_branch(address.place, branch=branch, exist_ok=True)


def _files_of(place: Repository) -> Mapping[str, File]:
    """Return the files of the store that the repository holds; none where it holds no store."""
    if MANIFEST not in place.sizes():
        return {}
    with closing(place.open(MANIFEST)) as file:
        if file.size > MAX_BYTES:
            return {}
        try:
            return from_bytes(file.read(0, file.size)).files
        except FormatError:
            return {}


def _is_same(shared: tuple[Repository, Path], name: str) -> bool:
    """Tell whether the hub has a file as it is here; one that was damaged there is sent again."""
    place, folder = shared
    return place.is_same(name, folder / name)


def _card(place: Repository) -> bytes | None:
    """Return the card in the repository, or the start of one that is no store's."""
    if CARD not in place.sizes():
        return None
    with closing(place.open(CARD)) as file:
        return file.read(0, min(file.size, ownership.MAX_SEALED + 1))


def _is_own(card: bytes, listed: File | None) -> bool:
    """Tell whether a card is as a store was pushed with it."""
    as_listed = listed is not None and blake3(card).hexdigest() == listed.blake3
    return as_listed or ownership.is_whole(card, ownership.HTML)


def _holds(place: Repository, manifest: Path) -> bool:
    if place.sizes().get(MANIFEST) != manifest.stat().st_size:
        return False
    with closing(place.open(MANIFEST)) as file:
        return file.read(0, file.size) == manifest.read_bytes()


def _send_large(
    place: Repository,
    address: Address,
    additions: Sequence[CommitOperationAdd],
    meter: Meter,
    create_pr: bool,
) -> None:
    """Send the files that the hub keeps outside of the commit; nobody sees them yet."""
    meter.stage("sending", address.place)
    for group in _groups(additions):
        with settled(address), explained(address), without_bars():
            api().preupload_lfs_files(
                address.place,
                group,
                revision=address.revision,
                create_pr=create_pr or None,
                free_memory=False,
            )
        for addition in group:
            meter.add(addition.path_in_repo, addition.upload_info.size)


def _groups(additions: Sequence[CommitOperationAdd]) -> Iterator[list[CommitOperationAdd]]:
    rest = iter(additions)
    while group := list(islice(rest, _TOGETHER)):
        yield group
