"""Use a model repository of a hub as a location: pinned to a commit, read by ranges.

What is in the hub's cache already is read there. Small files can be fetched into it, whole; a write
is a commit.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from hashlib import sha1, sha256
from pathlib import Path
from threading import RLock
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants, hf_hub_url
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import (
    are_progress_bars_disabled,
    build_hf_headers,
    disable_progress_bars,
    enable_progress_bars,
    get_session,
    hf_raise_for_status,
)

from taskstore.errors import BadName, ChangedMeanwhile, FormatError, RemoteError
from taskstore.locations.base import OpenFile
from taskstore.locations.files import COPY_BLOCK, LocalFile, below
from taskstore.locations.remote import windows
from taskstore.locations.remote.addresses import Address
from taskstore.locations.remote.hub_cache import cached, cached_commit, note
from taskstore.locations.remote.hub_errors import explained, settled, unreachable
from taskstore.version import __version__

_COMMIT = re.compile(r"[0-9a-f]{40}")
_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")
_DOWNLOADS = 8  # at once
_TRIES = 10  # to commit while others do
MOST_FILES = 100_000  # of a repository
Operation = CommitOperationAdd | CommitOperationDelete


def api() -> HfApi:
    """The hub that the environment names, with the user's token."""
    return HfApi(library_name="taskstore", library_version=__version__)


@contextmanager
def without_bars() -> Iterator[None]:
    """Keep the hub's library from drawing its own bars: what is done is told by callbacks."""
    if constants.HF_HUB_DISABLE_PROGRESS_BARS is not None or are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()


class Repository:
    """A repository at the commit that its revision had when it was opened; thread-safe.

    address  with the commit for its revision
    offline  whether the hub could not be reached: only what is in the cache is seen
    """

    def __init__(self, address: Address) -> None:
        """Find the commit; raises RemoteError where that cannot be done."""
        self._api, self._lock = api(), RLock()
        self._branch, self.offline = address.revision or constants.DEFAULT_REVISION, False
        with settled(address):
            self.address = address.at(self._pinned(address))
        self._sizes: dict[str, int] | None = None
        self._objects: dict[str, str] = {}  # name -> its SHA-256 for a file of LFS, else of git

    @property
    def commit(self) -> str:
        return self.address.revision or ""

    def _pinned(self, address: Address) -> str:
        try:
            with explained(address):
                try:
                    found = self._api.repo_info(
                        address.place,
                        revision=address.revision,
                        timeout=constants.HF_HUB_ETAG_TIMEOUT,
                    )
                except OSError as error:
                    if unreachable(error) and (
                        commit := cached_commit(address.place, self._branch)
                    ):
                        self.offline = True
                        return commit
                    raise
        except windows.Temporary as error:
            raise RemoteError(
                f"{error.strerror}; a folder on this machine is named ./{address.place}"
            ) from None
        if not isinstance(found.sha, str) or not _COMMIT.fullmatch(found.sha):
            raise RemoteError(f"{address}: the hub tells no commit")
        return found.sha

    @property
    def snapshot(self) -> Path:
        """Where the cache has files of this commit, whether there are any or not."""
        return cached(self.address.place, self.commit)

    def sizes(self) -> Mapping[str, int]:
        """List files with their bytes, sorted by name; raises BadName for one that is no file's."""
        with self._lock:
            if self._sizes is None:
                listed = self._in_cache() if self.offline else self._listed()
                prefix = f"{self.address.path}/" if self.address.path else ""
                self._sizes = {
                    name.removeprefix(prefix): size
                    for name, size in sorted(listed)
                    if name.startswith(prefix)
                }
            return self._sizes

    def is_same(self, name: str, path: Path) -> bool:
        """Tell whether a file of this machine is what the hub says that it has; raises OSError."""
        if self.sizes().get(name) != (size := path.stat().st_size):
            return False
        said = self._objects.get(self._path(name), "")
        state = sha256() if len(said) == 64 else sha1(b"blob %d\0" % size, usedforsecurity=False)
        with path.open("rb") as file:
            while block := file.read(COPY_BLOCK):
                state.update(block)
        return state.hexdigest() == said

    def _listed(self) -> list[tuple[str, int]]:
        found = []
        with settled(self.address), explained(self.address):
            tree = self._api.list_repo_tree(
                self.address.place, recursive=True, revision=self.commit
            )
            for entry in tree:
                if isinstance(entry, RepoFile):
                    found.append((_checked(entry.path), entry.size))
                    self._objects[entry.path] = entry.lfs.sha256 if entry.lfs else entry.blob_id
                if len(found) > MOST_FILES:
                    raise FormatError(f"{self.address} has over {MOST_FILES:,} files")
        return found

    def _in_cache(self) -> list[tuple[str, int]]:
        here = self.snapshot
        return [(p.relative_to(here).as_posix(), p.stat().st_size) for p in below(here)]

    def names(self) -> Iterator[str]:
        yield from self.sizes()

    def _path(self, name: str) -> str:
        _checked(name)
        return f"{self.address.path}/{name}" if self.address.path else name

    def open(self, name: str) -> OpenFile:
        path = self._path(name)
        if (here := self.snapshot / path).is_file():
            return LocalFile(here, self.snapshot)
        size = self.sizes().get(name)
        if size is None:
            label = f"{self.address}/{name}"
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), label)
        return windows.shared().file(self._fetcher(path, size), size, f"{self.address}/{name}")

    def _fetcher(self, path: str, size: int) -> windows.Fetch:
        address = self.address
        url = hf_hub_url(address.place, path, revision=self.commit, endpoint=self._api.endpoint)

        def fetch(begin: int, end: int) -> Iterator[bytes]:
            headers = build_hf_headers(library_name="taskstore", library_version=__version__)
            headers |= {"Range": f"bytes={begin}-{end - 1}", "Accept-Encoding": "identity"}
            wait = constants.HF_HUB_DOWNLOAD_TIMEOUT
            with (
                explained(address, path),
                get_session().stream("GET", url, headers=headers, timeout=wait) as answer,
            ):
                _check(answer, begin, end, size, f"{address}/{path}")
                yield from answer.iter_raw()

        return fetch

    def fetch(self, names: Iterable[str]) -> Path:
        """Bring files into the cache, whole; returns the folder of the repository's address there.

        What is there already is not asked for. Raises RemoteError.
        """
        wanted = [self._path(name) for name in names]
        missing = [path for path in wanted if not (self.snapshot / path).is_file()]
        with (
            without_bars(),
            ThreadPoolExecutor(_DOWNLOADS, thread_name_prefix="taskstore-hub") as pool,
        ):
            for _ in pool.map(self._download, missing):
                pass
        if missing:
            note(self.address.place, self._branch, self.commit)
        return self.snapshot / self.address.path if self.address.path else self.snapshot

    def _download(self, path: str) -> None:
        with settled(self.address), explained(self.address, path):
            self._api.hf_hub_download(self.address.place, path, revision=self.commit)

    def put(self, name: str, data: bytes) -> None:
        self.send([CommitOperationAdd(self._path(name), data)], f"Write {name}")

    def put_if_unchanged(self, name: str, data: bytes, seen: bytes | None) -> None:
        path, sent = self._path(name), False
        for _ in range(_TRIES):
            now = Repository(self.address.at(self._branch))
            there = now._holds(name)
            if sent and there == data:  # the answer was lost
                return
            if there != seen:
                raise ChangedMeanwhile(f"{now.address}/{name} was changed by another writer")
            try:
                self.send([CommitOperationAdd(path, data)], f"Write {name}", parent=now.commit)
                return
            except ChangedMeanwhile:
                continue  # of this file, or of another: look again
            except RemoteError:
                if sent:
                    raise
                sent = True
        raise ChangedMeanwhile(f"{self.address}/{name}: others commit all the time; try later")

    def _holds(self, name: str) -> bytes | None:
        if name not in self.sizes():
            return None
        with closing(self.open(name)) as file:
            return file.read(0, file.size)

    def delete(self, name: str) -> None:
        path = self._path(name)
        if name in Repository(self.address.at(self._branch)).sizes():
            self.send([CommitOperationDelete(path)], f"Remove {name}")

    def send(
        self, operations: list[Operation], message: str, parent: str | None = None, **given: Any
    ) -> str:
        """Make one commit of the branch, and see it from now on; returns where it can be seen.

        What the hub has already is not sent. Raises ChangedMeanwhile where the branch is not at
        `parent` any more.
        """
        with self._lock, settled(self.address), explained(self.address), without_bars():
            done = self._api.create_commit(
                self.address.place,
                operations,
                commit_message=message,
                revision=self._branch,
                parent_commit=parent,
                **given,
            )
            if parent not in (None, done.oid) and _skipped(operations):
                raise ChangedMeanwhile(f"{self.address}: another writer has put the same")
            if done.pr_url is None:
                self.address, self._sizes = self.address.at(done.oid), None
            return str(done.pr_url or done.commit_url)


def _skipped(operations: list[Operation]) -> bool:
    """Tell whether no commit was made, since the branch has all of it."""
    added = [one for one in operations if isinstance(one, CommitOperationAdd)]
    return bool(added) and not any(getattr(one, "_is_committed", True) for one in added)


def _checked(name: str) -> str:
    parts = name.split("/")
    if any(part in ("", ".", "..") for part in parts) or "\\" in name or "\0" in name:
        raise BadName("name of a file", name, "leaves its location")
    return name


def _check(answer: Any, begin: int, end: int, size: int, label: str) -> None:
    """Refuse an answer that is not the range that was asked for."""
    if answer.status_code >= 400:
        answer.read()
        hf_raise_for_status(answer)
    found = _RANGE.fullmatch(answer.headers.get("Content-Range", ""))
    if answer.status_code == 200 and (begin, end) == (0, size):
        return
    if answer.status_code != 206 or found is None:
        raise RemoteError(
            f"{label}: its server gives no ranges; take the whole file with cache=True"
        )
    if int(found[3]) != size:
        raise ChangedMeanwhile(
            f"{label} has {int(found[3])} bytes where the hub lists {size}; it is not what it was"
        )
    if (int(found[1]), int(found[2])) != (begin, end - 1):
        raise RemoteError(f"{label}: its server sends another range than the one asked for")
