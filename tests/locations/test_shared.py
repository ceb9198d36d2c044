"""A file that several read is open once, and until the last of them is done."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from taskstore.locations.base import OpenFile
from taskstore.locations.shared import SharedFolder


def opened(path: Path) -> int:
    """Count this process's descriptors of a file."""
    found = path.stat()
    return sum(same(fd, found) for fd in range(256))


def same(fd: int, found: os.stat_result) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), found)
    except OSError:
        return False


def test_the_last_reader_closes(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    folder = SharedFolder(tmp_path)
    first, second = folder.open("a"), folder.open("a")
    assert opened(tmp_path / "a") == 1
    first.close()
    first.close()  # once more does nothing to the others
    assert second.read(1, 2) == b"bc"
    second.close()
    assert opened(tmp_path / "a") == 0
    third = folder.open("a")
    assert third.read(0, 1) == b"a"
    third.close()


def test_another_file_of_that_name_is_another_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"old")
    folder = SharedFolder(tmp_path)
    old = folder.open("a")
    (tmp_path / "b").write_bytes(b"new")
    os.replace(tmp_path / "b", tmp_path / "a")
    new = folder.open("a")
    assert (old.read(0, 3), new.read(0, 3)) == (b"old", b"new")
    old.close()
    assert new.read(0, 3) == b"new"
    new.close()
    (tmp_path / "a").unlink()
    with pytest.raises(FileNotFoundError):
        folder.open("a")


def test_many_threads(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(bytes(range(256)))
    folder = SharedFolder(tmp_path)

    def read(i: int) -> bytes:
        file: OpenFile = folder.open("a")
        try:
            return file.read(i, 1)
        finally:
            file.close()

    with ThreadPoolExecutor(8) as pool:
        assert b"".join(pool.map(read, range(256))) == bytes(range(256))
    assert opened(tmp_path / "a") == 0
