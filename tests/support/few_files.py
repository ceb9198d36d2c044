"""Read a store in a process of its own that may open few files.

In the process of the tests threads of others open files, too.
"""

from __future__ import annotations

import itertools
import os
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import taskstore
from taskstore import MergeOptions
from taskstore.merging.from_store import merge_store
from taskstore.packing.revise import retier
from taskstore.store.verify import verify
from tests.support.families import options

MARGIN = 32


@contextmanager
def few_files(room: int) -> Iterator[None]:
    """Let the process open about `room` more files."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = {int(name) for name in os.listdir("/dev/fd")}
    free = (number for number in itertools.count() if number not in taken)
    limit = next(itertools.islice(free, room, None))
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, before[1]))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def main(root: Path, files: int) -> None:
    """Read all of the store `root`/s, which has so many files, in each way."""
    store = taskstore.open(root / "s")
    with few_files(files + MARGIN):
        assert verify(store, deep=True).problems == []
        merge_store(store, root / "merged", MergeOptions("average"))
        retier(store, options(tiers="rest"), root / "rest")
    with few_files(MARGIN):
        store.unpack_all(root / "all")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
