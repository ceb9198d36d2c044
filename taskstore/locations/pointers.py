"""Tell files from the small texts that Git LFS and git-annex put in their place until fetched."""

from __future__ import annotations

import re
from contextlib import suppress
from typing import NamedTuple

from taskstore.locations.base import PathLike
from taskstore.locations.files import LocalFile

_LARGEST = 1024  # bytes of a pointer, by the specification of Git LFS
_KINDS = (
    (rb"version https://(git-lfs|hawser)\.github\.com/spec/", "a Git LFS pointer", "git lfs pull"),
    (rb"/annex/objects/", "a git-annex pointer", "git annex get"),
)
_SIZE = re.compile(rb"^size ([0-9]{1,18})\r?$", re.MULTILINE)


class Pointer(NamedTuple):
    """What is wrong with a file, with the way out, and how many bytes it should have, if said."""

    problem: str
    size: int


def pointer(path: PathLike, within: PathLike | None = None) -> Pointer | None:
    """Return what stands in a file's place; None for any other file.

    A file that cannot be opened, as `open_regular` does it, is for others to refuse.
    """
    head = b""
    with suppress(OSError):
        file = LocalFile(path, within)
        try:
            if file.size <= _LARGEST:
                head = file.read(0, file.size)
        finally:
            file.close()
    for start, what, fetch in _KINDS:
        if re.match(start, head):
            found = _SIZE.search(head)
            size = int(found[1]) if found else 0
            of = f" to {size} bytes" if size else ""
            return Pointer(f"is {what}{of}, not the file; run `{fetch}` in its repository", size)
    return None
