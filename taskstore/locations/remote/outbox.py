"""Write a model's folder at an address: its files in a folder here, then each of them there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from taskstore.errors import OptionError, OutputError
from taskstore.locations import dry
from taskstore.locations.remote import mirror
from taskstore.locations.remote.addresses import HUB, Address
from taskstore.locations.remote.bucket import Bucket
from taskstore.locations.scratch import scratch

LAST = "config.json"  # without it nobody takes the files for a model


def check(address: Address) -> Bucket:
    """Open a place that must be empty; raises OutputError, OptionError or RemoteError."""
    if address.scheme == HUB:
        raise OptionError(f"{address}: write a folder, and upload it with `hf upload`")
    place = Bucket(address)
    if place.sizes():
        raise OutputError(f"{address} holds files already; name another prefix, or delete them")
    return place


@contextmanager
def folder(address: Address) -> Iterator[Path]:
    """Yield an empty folder whose files are at the address when the block ends, config last."""
    place = check(address)
    dry.stop()
    with scratch(mirror.folder_of(address)) as made:
        yield made
        files = [path for path in made.rglob("*") if path.is_file()]
        for path in sorted(files, key=lambda path: (path.name == LAST, path)):
            place.put_file(path.relative_to(made).as_posix(), path)
