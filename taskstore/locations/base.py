"""What a place for models and stores offers, and what a path is.

A store's data files never change once they are written; only the manifest is replaced, last, and
only if it is still what was read before. So five operations are enough for a folder, a bucket or a
repository. tests/locations/test_base.py is what each kind of location must pass.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Protocol

PathLike = str | os.PathLike[str]


class OpenFile(Protocol):
    """An open file of `size` bytes; reads are positioned and thread-safe."""

    @property
    def size(self) -> int: ...

    def read(self, begin: int, count: int) -> bytes:
        """Read exactly `count` bytes from `begin` on; raises FormatError where there are fewer."""

    def close(self) -> None: ...


class Location(Protocol):
    """Files by their names, with "/" between folders; a name never leaves its location."""

    def names(self) -> Iterator[str]:
        """Yield the names of all files, sorted."""

    def open(self, name: str) -> OpenFile:
        """Open a file; raises OSError: FileNotFoundError where there is no such file."""

    def put(self, name: str, data: bytes) -> None:
        """Write a file whole or not at all; what had its name is replaced. Raises OSError."""

    def put_if_unchanged(self, name: str, data: bytes, seen: bytes | None) -> None:
        """Put a file if it still holds `seen` (None: is not there); else raise ChangedMeanwhile."""

    def delete(self, name: str) -> None:
        """Remove a file; one that is not there is no error."""
