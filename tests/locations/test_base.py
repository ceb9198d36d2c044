"""What every kind of location must do. A new kind is one entry of KINDS and of WRITERS."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st
from obstore.store import MemoryStore

from taskstore.errors import BadName, ChangedMeanwhile, FormatError
from taskstore.locations import files
from taskstore.locations.base import Location
from taskstore.locations.files import LocalFolder
from taskstore.locations.remote.addresses import Address
from taskstore.locations.remote.bucket import Bucket
from taskstore.locations.remote.repository import Repository, api
from taskstore.locations.shared import SharedFolder
from tests.support import clouds

Factory = Callable[[Path], Location]


def in_memory(path: Path) -> Bucket:
    return Bucket(Address("s3", "memory", path.as_posix().strip("/")), MEMORY)


def on_server(scheme: str) -> Factory:
    return lambda path: clouds.bucket(scheme, path.as_posix().strip("/"))


def in_hub(path: Path) -> Repository:
    address = Address("hf", f"ann/{blake3(bytes(path)).hexdigest(8)}", "place")
    api().create_repo(address.place, exist_ok=True)
    return Repository(address)


MEMORY = MemoryStore()
# A factory is called with a scratch folder, again to see the same place, also in other processes.
KINDS: dict[str, Factory] = {
    "local": LocalFolder,
    "shared": SharedFolder,
    "memory": in_memory,
    "s3": on_server("s3"),
    "hub": in_hub,
    "az": on_server("az"),
    "gs": on_server("gs"),
}
BUCKETS = ("memory", "s3", "az", "gs")  # a file that changes cannot be read on, and says so
REMOTE = (*BUCKETS, "hub")
# How a write to the disk is made to fail, by kind; what is put over a wire: test_bucket.py.
WRITERS: dict[str, tuple[object, str]] = {
    "local": (files, "write_all"),
    "shared": (files, "write_all"),
}
# how the hub's library sends a small file
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
OUTSIDE = [
    "", "/", "/x", "//x", ".", "..", "../x", "a/../x", "a/..", "./x", "a/./x", "a//b", "a/",
    "a\\b", "..\\x", "C:\\x",
]  # fmt: skip
OPERATIONS: dict[str, Callable[[Location, str], object]] = {
    "open": lambda place, name: place.open(name),
    "put": lambda place, name: place.put(name, b"x"),
    "put_if_unchanged": lambda place, name: place.put_if_unchanged(name, b"x", None),
    "delete": lambda place, name: place.delete(name),
}
ROUNDS = 40


@pytest.fixture
def place(kind: str, tmp_path: Path) -> Location:
    return KINDS[kind](tmp_path / "place")


def whole(place: Location, name: str) -> bytes:
    """All of a file, as it was at one moment."""
    while True:
        file = place.open(name)
        with suppress(ChangedMeanwhile), closing(file):
            return file.read(0, file.size)


def everything(place: Location) -> dict[str, bytes]:
    return {name: whole(place, name) for name in place.names()}


def test_every_kind_can_be_made_to_fail() -> None:
    assert {*WRITERS, *REMOTE} == set(KINDS)


def test_a_place_that_is_not_there_is_empty(place: Location) -> None:
    assert list(place.names()) == []
    with pytest.raises(FileNotFoundError):
        place.open("a")
    place.delete("a")


def test_names_are_sorted_as_text(place: Location) -> None:
    """Byte by byte, as object stores list them: "." stands before "/" and "0" after it."""
    names = ["b", "a/c", "a.b", "a0", "a/b/c", "tasks/für alle/masks", "B", ".hidden"]
    for name in names:
        place.put(name, name.encode())
    assert list(place.names()) == sorted(names)
    assert everything(place) == {name: name.encode() for name in names}


def test_reads_are_positioned_and_exact(place: Location) -> None:
    data = bytes(range(256)) * 10
    place.put("tasks/one/f", data)
    file = place.open("tasks/one/f")
    assert file.size == len(data)
    for begin, count in ((0, 0), (0, 1), (255, 2), (100, 2000), (2560, 0), (2559, 1), (0, 2560)):
        assert file.read(begin, count) == data[begin : begin + count]
    for begin, count in ((0, 2561), (2559, 2), (2560, 1), (10_000, 1)):
        with pytest.raises(FormatError):
            file.read(begin, count)
    file.close()
    file.close()
    with pytest.raises(OSError, match="file"):  # it is closed
        file.read(0, 1)


@given(
    data=st.binary(max_size=300),
    ranges=st.lists(st.tuples(st.integers(0, 310), st.integers(0, 310))),
)
def test_any_range_is_exact_or_refused(
    data: bytes, ranges: list[tuple[int, int]], kind: str, tmp_path: Path
) -> None:
    place = KINDS[kind](tmp_path)
    place.put("f", data)
    file = place.open("f")
    try:
        for begin, count in ranges:
            if begin + count <= len(data):
                assert file.read(begin, count) == data[begin : begin + count]
            elif count:
                with pytest.raises(FormatError):
                    file.read(begin, count)
    finally:
        file.close()


def test_an_open_file_stays_what_it_was(kind: str, place: Location) -> None:
    """Replacing or deleting a file does not disturb who reads it, or is told."""
    place.put("f", b"old")
    file = place.open("f")
    place.put("f", b"newer")
    if kind in BUCKETS:
        with pytest.raises(ChangedMeanwhile, match="f was changed while it was read"):
            file.read(0, 3)
        place.delete("f")
        with pytest.raises(ChangedMeanwhile, match="f was changed while it was read"):
            file.read(1, 2)
        return
    assert (file.size, file.read(0, 3)) == (3, b"old")
    place.delete("f")
    assert file.read(1, 2) == b"ld"
    file.close()


def test_reads_of_many_threads(place: Location) -> None:
    data = os.urandom(1 << 20)
    place.put("f", data)
    file = place.open("f")
    begins = [(i * 7919) % (len(data) - 5000) for i in range(400)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda begin: file.read(begin, 5000), begins))
    file.close()
    assert all(raw == data[b : b + 5000] for raw, b in zip(found, begins, strict=True))


def test_what_is_no_file_cannot_be_opened(place: Location) -> None:
    """A folder is no file, and a file is no folder; neither is there as a name."""
    place.put("a/b", b"1")
    with pytest.raises(OSError, match="a"):
        place.open("a")
    with pytest.raises(OSError, match="c"):
        place.open("a/b/c")
    with pytest.raises(FileNotFoundError):
        place.open("a/c")
    assert list(place.names()) == ["a/b"]


def test_long_names(place: Location) -> None:
    """As long as file systems allow: what a writer needs beside a file is no longer."""
    place.put("a/" + "n" * 255, b"1")
    assert everything(place) == {"a/" + "n" * 255: b"1"}


def test_put_replaces(place: Location) -> None:
    for data in (b"first, and longer", b"", b"last", os.urandom(100_000)):
        place.put("a/f", data)
        assert everything(place) == {"a/f": data}


@pytest.mark.parametrize("before", [None, b"what was there"])
@pytest.mark.parametrize("conditional", [False, True])
def test_a_write_that_fails_changes_nothing(
    kind: str,
    place: Location,
    before: bytes | None,
    conditional: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Half of the bytes get out; then the disk is full."""
    if kind not in WRITERS:
        pytest.skip("nothing of it is written on this machine")
    if before is not None:
        place.put("a/f", before)
    held = {} if before is None else {"a/f": before}
    module, name = WRITERS[kind]
    real = getattr(module, name)

    def half(where: object, data: bytes) -> None:
        real(where, data[: len(data) // 2])
        assert everything(place) == held  # what is half there is not listed
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(module, name, half)
        with pytest.raises(OSError, match="No space"):
            if conditional:
                place.put_if_unchanged("a/f", b"what comes now", before)
            else:
                place.put("a/f", b"what comes now")
    assert everything(place) == held
    place.put_if_unchanged("a/f", b"afterwards", before)
    assert everything(place) == {"a/f": b"afterwards"}


def test_writers_of_one_name_leave_one_of_theirs(place: Location) -> None:
    """Without a condition the last one wins; nobody sees a mixture or an error."""
    contents = [bytes([65 + i]) * (50_000 + 1000 * i) for i in range(4)]
    place.put("f", contents[0])

    def write(data: bytes) -> None:
        for _ in range(ROUNDS):
            place.put("f", data)
            assert whole(place, "f") in contents

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, contents))
    assert list(place.names()) == ["f"]
    assert whole(place, "f") in contents


def test_put_if_unchanged(place: Location) -> None:
    for seen in (b"", b"other"):
        with pytest.raises(ChangedMeanwhile, match="f"):
            place.put_if_unchanged("a/f", b"1", seen)
    assert list(place.names()) == []
    place.put_if_unchanged("a/f", b"1", None)
    for stale in (None, b"", b"0", b"11"):
        with pytest.raises(ChangedMeanwhile, match="f"):
            place.put_if_unchanged("a/f", b"2", stale)
    assert everything(place) == {"a/f": b"1"}
    place.put_if_unchanged("a/f", b"", b"1")
    with pytest.raises(ChangedMeanwhile):
        place.put_if_unchanged("a/f", b"2", None)  # empty is not missing
    place.put_if_unchanged("a/f", b"2", b"")
    place.delete("a/f")
    with pytest.raises(ChangedMeanwhile):
        place.put_if_unchanged("a/f", b"3", b"2")
    assert everything(place) == {}


def test_deleting(place: Location) -> None:
    place.put("a/b", b"1")
    place.put("c", b"2")
    place.delete("a/b")
    place.delete("a/b")
    place.delete("c/d")  # below a file there is nothing
    assert everything(place) == {"c": b"2"}


@pytest.mark.parametrize("name", OUTSIDE)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_no_name_leaves_its_location(kind: str, tmp_path: Path, operation: str, name: str) -> None:
    (tmp_path / "x").write_bytes(b"a neighbour")
    place = KINDS[kind](tmp_path / "place")
    place.put("a/b", b"1")
    with pytest.raises(BadName, match="leaves its location"):
        OPERATIONS[operation](place, name)
    assert everything(place) == {"a/b": b"1"}
    assert (tmp_path / "x").read_bytes() == b"a neighbour"
    assert {path.name for path in tmp_path.iterdir()} <= {"place", "x"}
