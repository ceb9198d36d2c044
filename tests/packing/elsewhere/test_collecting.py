"""What `gc` removes from a bucket, and what it leaves."""

from __future__ import annotations

from pathlib import Path

import pytest
from obstore.store import MemoryStore

import taskstore
from taskstore.errors import FormatError
from taskstore.format.manifest_file import OLD
from taskstore.format.names import CARD, MANIFEST
from taskstore.locations.remote.addresses import Address
from taskstore.locations.remote.bucket import Bucket
from taskstore.packing.elsewhere import collecting
from taskstore.packing.elsewhere.collecting import collect
from tests.support import families
from tests.support.families import Family
from tests.support.seaweed import BUCKET, Seaweed

pytestmark = pytest.mark.xdist_group("s3")


@pytest.fixture
def place(s3: Seaweed, tmp_path: Path, small: Family) -> Bucket:
    """A bucket with a store that was changed, and what a killed writer left."""
    found = Bucket(Address("s3", BUCKET, f"stores/{tmp_path.name}"))
    where = str(found.address)
    taskstore.pack(small.base_path, small.paths, where, families.options(tiers="exact"))
    taskstore.remove(where, [next(iter(small.paths))])
    found.put("tasks/left/exact-0123456789ab.safetensors", b"12345")
    found.put("a-user-s.txt", b"1")
    return found


def test_nothing_that_may_be_needed_goes(place: Bucket) -> None:
    before = [*place.names()]
    assert collect(str(place.address)) == (0, 1)
    assert [*place.names()] == before


def test_what_no_manifest_names_goes(place: Bucket) -> None:
    where = str(place.address)
    sizes = dict(place.sizes())
    gone, left = collect(where, older=0)
    listed = {MANIFEST, CARD, *taskstore.open(where).manifest.files}
    assert {*place.names()} == {*listed, "a-user-s.txt"} and left == 0
    assert gone == sum(size for name, size in sizes.items() if name not in {*place.names()})
    assert any(name.startswith(f"{OLD}/") for name in sizes)
    assert taskstore.verify(where, deep=True).ok
    assert collect(where, older=0) == (0, 0)


def test_a_manifest_that_cannot_be_read_keeps_all(place: Bucket) -> None:
    place.put(MANIFEST, b"{}")
    before = [*place.names()]
    with pytest.raises(FormatError):
        collect(str(place.address), older=0)
    assert [*place.names()] == before


@pytest.fixture
def other() -> Bucket:
    return Bucket(Address("s3", "bucket", "place"), MemoryStore())


def test_a_store_that_lost_its_manifest_keeps_all(
    other: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collecting, "bucket", lambda _: other)
    other.put("tasks/a/exact-0123456789ab.safetensors", b"12345")
    other.put(f"{OLD}/{'0' * 64}.json", b"{}")
    with pytest.raises(FormatError, match="nothing is removed"):
        collect("s3://bucket/place", older=-1)
    assert len([*other.names()]) == 2


def test_folders_of_others_stay(other: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    """A web site has assets, too; so has a store below this place."""
    monkeypatch.setattr(collecting, "bucket", lambda _: other)
    for name in ("assets/site.css", "assets/family/taskstore.json", "tasks/notes.txt"):
        other.put(name, b"1")
    assert collect("s3://bucket/place", older=-1) == (0, 0)
    assert len([*other.names()]) == 3


def test_a_place_without_a_store(s3: Seaweed, tmp_path: Path) -> None:
    """What a writer left that was killed before its first manifest."""
    place = Bucket(Address("s3", BUCKET, f"left/{tmp_path.name}"))
    place.put("base-0123456789ab.safetensors", b"12345")
    assert collect(str(place.address), older=0) == (5, 0)
    assert [*place.names()] == []
