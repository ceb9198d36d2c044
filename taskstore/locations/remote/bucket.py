"""Use a prefix of a bucket as a location: S3 and what speaks like it, Google's store, Azure's.

There is no rename, so a file is put whole, and one that must still be what it was is put under the
condition that its entity tag is the same. Credentials are the environment's, the profile's, or the
machine's; see `credentials`.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from taskstore import extras
from taskstore.errors import BadName, ChangedMeanwhile, RemoteError
from taskstore.locations.base import OpenFile
from taskstore.locations.remote import credentials, windows
from taskstore.locations.remote.addresses import Address
from taskstore.locations.remote.bucket_errors import meaning

if TYPE_CHECKING:
    from obstore.store import ObjectStore

PART = 16 << 20  # bytes of a part of a large file that is put; two are in flight
_MOST_PARTS = 9_000  # of the 10,000 that S3 takes
_STREAMED = 1 << 20
_TRIES = 5  # of a put under a condition
_RETRY: Any = {
    "max_retries": 4,
    "retry_timeout": timedelta(seconds=60),
    "backoff": {"init_backoff": timedelta(milliseconds=200), "max_backoff": timedelta(seconds=8)},
}


@dataclass(frozen=True)
class Entry:
    """A file of a bucket: its bytes, and when it was put."""

    size: int
    modified: datetime
    e_tag: str | None


class Bucket:
    """A prefix of a bucket; thread-safe."""

    def __init__(self, address: Address, store: ObjectStore | None = None) -> None:
        """Name a place; nothing is asked of it. Raises MissingExtra, or OSError for a setting.

        `store` is one that is open already, such as a store in memory.
        """
        self._obs = extras.need(f"{address.scheme}://", "obstore")
        self.address = address
        self._store = store or self._opened(_RETRY)
        self._asked_once = store or self._opened({**_RETRY, "max_retries": 0})

    def __reduce__(self) -> Any:
        """Another process finds its own credentials."""
        return Bucket, (self.address,)

    def _opened(self, retry: Any) -> ObjectStore:
        from obstore.store import from_url

        address = self.address
        with self._clear(""):
            made: ObjectStore = from_url(
                f"{address.scheme}://{address.place}",
                client_options=credentials.client_options(address.scheme),
                retry_config=retry,
                **credentials.options(address.scheme),
            )
        return made

    def _key(self, name: str) -> str:
        if any(part in ("", ".", "..") for part in name.split("/")) or "\\" in name:
            raise BadName("name of a file", name, "leaves its location")
        return f"{self.address.path}/{name}" if self.address.path else name

    def _label(self, name: str) -> str:
        return f"{self.address}/{name}" if name else str(self.address)

    @contextmanager
    def _clear(self, name: str) -> Iterator[None]:
        """Say what the library's errors mean; what it says itself may hold a secret."""
        try:
            with self._answer(name):
                yield
        except windows.Temporary as error:
            raise RemoteError(
                f"{self._label(name)}: {error.strerror}; try again later, what is there already "
                "is not sent twice"
            ) from None

    @contextmanager
    def _answer(self, name: str) -> Iterator[None]:
        """The same for a request that is made again by who asked, where that may help."""
        try:
            yield
        except (self._obs.exceptions.BaseError, FileNotFoundError, ValueError) as error:
            raise meaning(error, self.address, self._label(name)) from None

    def entries(self) -> dict[str, Entry]:
        """List all files with their sizes and times, sorted by name; raises OSError."""
        prefix = self.address.path
        with self._clear(""):
            pages = self._obs.list(self._store, prefix=prefix or None)
            found = [item for page in pages for item in page]
        skip = len(prefix) + 1 if prefix else 0
        rows = ((i["path"][skip:], Entry(i["size"], i["last_modified"], i["e_tag"])) for i in found)
        return dict(sorted(rows))

    def sizes(self) -> Mapping[str, int]:
        """List all files with their bytes, sorted by name; raises OSError."""
        return {name: entry.size for name, entry in self.entries().items()}

    def names(self) -> Iterator[str]:
        yield from self.entries()

    def entry(self, name: str) -> Entry | None:
        """Return size and time of a file; None where there is none."""
        key = self._key(name)
        try:
            with self._clear(name):
                found = self._obs.head(self._store, key)
        except (FileNotFoundError, RemoteError) as error:
            self._check_readable(name)  # such an answer has no body that says why
            if isinstance(error, RemoteError):
                raise
            return None
        return Entry(found["size"], found["last_modified"], found["e_tag"])

    def _check_readable(self, name: str) -> None:
        """Raise RemoteError where the bucket, or the right to read it, is missing."""
        with suppress(FileNotFoundError), self._clear(name):
            self._obs.get(self._store, self._key(name))

    def open(self, name: str) -> OpenFile:
        found = self.entry(name)
        if found is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), self._label(name))
        fetch = self._fetcher(name, found.e_tag)
        return windows.shared().file(fetch, found.size, self._label(name))

    def _fetcher(self, name: str, e_tag: str | None) -> windows.Fetch:
        key = self._key(name)

        def fetch(begin: int, end: int) -> Iterator[bytes]:
            asked = {"range": (begin, end), **({"if_match": e_tag} if e_tag else {})}
            try:
                with self._answer(name):
                    got = self._obs.get(self._store, key, options=asked)
                    for part in got.stream(min_chunk_size=_STREAMED):
                        yield bytes(part)
            except (ChangedMeanwhile, FileNotFoundError):
                raise ChangedMeanwhile(
                    f"{self._label(name)} was changed while it was read; run the command again"
                ) from None

        return fetch

    def read(self, name: str, limit: int) -> bytes:
        """Read a whole file of at most `limit` bytes; raises OSError, also where it is larger."""
        return self._whole(name, limit)[0]

    def _whole(self, name: str, limit: int | None = None) -> tuple[bytes, Any]:
        """Return content and version of a small file, from one answer.

        A put takes its condition from the entity tag, but in Google's store from the generation.
        """
        key = self._key(name)
        with self._clear(name):
            got = self._obs.get(self._store, key)
            if limit is not None and got.meta["size"] > limit:
                raise OSError(errno.EFBIG, f"it is larger than {limit} bytes", self._label(name))
            known = {"e_tag": got.meta["e_tag"], "version": got.meta["version"]}
            return bytes(got.bytes()), {key: value for key, value in known.items() if value}

    def put(self, name: str, data: bytes) -> None:
        key = self._key(name)
        with self._clear(name):
            self._obs.put(self._store, key, data, chunk_size=PART, max_concurrency=2)

    def put_file(self, name: str, path: Path) -> None:
        """Put a file of this machine, in parts where it is large; whole or not at all."""
        key, size = self._key(name), path.stat().st_size
        part = max(PART, -(-size // _MOST_PARTS))
        with self._clear(name):
            self._obs.put(self._store, key, path, chunk_size=part, max_concurrency=2)

    def put_if_unchanged(self, name: str, data: bytes, seen: bytes | None) -> None:
        mode: Any = "create"
        try:
            if seen is not None:
                there, mode = self._whole(name)
                if there != seen:
                    raise ChangedMeanwhile(self._label(name))
            self._put_once(name, data, seen, mode)
        except (ChangedMeanwhile, FileNotFoundError):
            raise ChangedMeanwhile(
                f"{self._label(name)} was changed by another writer; read it again"
            ) from None

    def _put_once(self, name: str, data: bytes, seen: bytes | None, mode: Any) -> None:
        """Put under a condition, again where no answer came: it may be this very put that is there.

        Raises ChangedMeanwhile for what another has put, RemoteError.
        """
        for failed in range(1, _TRIES + 1):
            try:
                with self._answer(name):
                    self._obs.put(
                        self._asked_once, self._key(name), data, mode=mode, use_multipart=False
                    )
                return
            except ChangedMeanwhile:
                if failed == 1 or self._there(name) != data:
                    raise
                return
            except windows.Temporary as error:
                last = error
            there = self._there(name)
            if there == data:
                return
            if there != seen:
                raise ChangedMeanwhile(self._label(name))
            if failed < _TRIES:
                windows.pause(0.2 * 2**failed)
        with self._clear(name):
            raise last

    def _there(self, name: str) -> bytes | None:
        try:
            return self._whole(name)[0]
        except FileNotFoundError:
            return None

    def delete(self, name: str) -> None:
        key = self._key(name)
        with suppress(FileNotFoundError), self._clear(name):
            self._obs.delete(self._store, key)
