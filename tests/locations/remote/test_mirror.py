"""The folder of this machine that has what was fetched of a store: checked, and bounded."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from blake3 import blake3

from taskstore.errors import ChecksumMismatch, FormatError, OptionError
from taskstore.locations.files import LocalFolder
from taskstore.locations.ownership import Written
from taskstore.locations.remote import mirror
from taskstore.locations.remote.addresses import Address
from taskstore.locations.remote.mirror import Mirror

DATA = {name: name.encode() * 500 for name in ("a", "b", "c")}


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Mirror:
    monkeypatch.setenv("TASKSTORE_CACHE", str(tmp_path / "cache"))
    source = LocalFolder(tmp_path / "source")
    for name, data in DATA.items():
        source.put(name, data)
    address = Address("s3", "bucket", "x")
    listed = {n: Written(bytes=len(d), blake3=blake3(d).hexdigest()) for n, d in DATA.items()}
    return Mirror(mirror.folder_of(address) / "version", source, address, listed)


def here(tmp_path: Path) -> set[str]:
    return {p.name for p in (tmp_path / "cache").rglob("version/*")}


def test_what_is_asked_for_is_fetched_once(made: Mirror, tmp_path: Path) -> None:
    made.have(["a", "nothing of the manifest"])
    assert here(tmp_path) == {"a"}
    made.source.delete("a")
    file = made.open("a")
    assert file.read(0, file.size) == DATA["a"]
    file.close()


def test_what_was_fetched_before_a_failure_is_not_fetched_again(
    made: Mirror, tmp_path: Path
) -> None:
    made.source.delete("b")
    with pytest.raises(FormatError, match="b is missing"):
        made.have(DATA)
    for name in here(tmp_path):  # several are fetched at once: which, hangs on the machine
        made.source.delete(name)
    made.source.put("b", DATA["b"])
    made.have(DATA)
    assert here(tmp_path) == {*DATA}


def test_what_another_process_removes_meanwhile_is_fetched(
    made: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its data are there for another version of the store; they go before they are linked."""
    Mirror(made._root.parent / "older", made.source, made.address, made.files).have(["a"])
    link = os.link

    def late(data: Path, path: Path) -> None:
        patch.undo()
        data.unlink()
        link(data, path)

    with monkeypatch.context() as patch:
        patch.setattr(os, "link", late)
        made.have(["a"])
    assert (made._root / "a").read_bytes() == DATA["a"]


@pytest.mark.parametrize("data", [b"b" * 499, b"x" * 500])
def test_another_file_is_refused(made: Mirror, tmp_path: Path, data: bytes) -> None:
    made.source.put("b", data)
    with pytest.raises((ChecksumMismatch, FormatError), match="b "):
        made.have(["b"])
    assert here(tmp_path) == set()
    made.source.delete("b")
    with pytest.raises(FormatError, match="b is missing from s3://bucket/x"):
        made.have(["b"])


def test_what_was_not_used_for_longest_goes(
    made: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made.have(["a", "b"])
    for name, ago in (("a", 5000), ("b", 9000)):
        path = next((tmp_path / "cache").rglob(f"version/{name}"))
        os.utime(path, (time.time() - ago,) * 2)
    monkeypatch.setenv("TASKSTORE_CACHE_SIZE", "1000")
    made.have(["c"])
    assert here(tmp_path) == {"a", "c"}
    monkeypatch.setenv("TASKSTORE_CACHE_SIZE", "1")
    made.have(["b"])  # c was used a moment ago
    assert here(tmp_path) == {"b", "c"}


@pytest.mark.parametrize(("given", "size"), [("50GiB", 50 << 30), ("1.5m", 3 << 19), ("7", 7)])
def test_sizes(monkeypatch: pytest.MonkeyPatch, given: str, size: int) -> None:
    monkeypatch.setenv("TASKSTORE_CACHE_SIZE", given)
    assert mirror.limit() == size
    monkeypatch.setenv("TASKSTORE_CACHE_SIZE", "much")
    with pytest.raises(OptionError, match="TASKSTORE_CACHE_SIZE is 'MUCH', no size"):
        mirror.limit()
