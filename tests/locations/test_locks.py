"""One writer at a time, with flock and without it."""

from __future__ import annotations

import errno
import fcntl
import os
import platform
import threading
from pathlib import Path

import pytest

from taskstore.errors import OutputError
from taskstore.locations import locks, publish

GONE = 2**22 + 1  # no process has this number: Linux gives none above 2**22


@pytest.fixture(params=["flock", "no flock"])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    def refuse(*_: object) -> None:
        raise OSError(errno.EOPNOTSUPP, "no locks here")

    if request.param == "no flock":
        monkeypatch.setattr(fcntl, "flock", refuse)
    name: str = request.param
    return name


def other(target: Path, seconds: float = 0) -> str:
    """What another thread, which holds nothing, is told; "" where it gets the lock."""
    said = []

    def write() -> None:
        try:
            with locks.waiting(seconds), publish.alone(target):
                said.append("")
        except OutputError as error:
            said.append(str(error))

    thread = threading.Thread(target=write)
    thread.start()
    thread.join()
    return said[0]


def test_the_second_is_refused_by_the_name_of_the_first(kind: str, tmp_path: Path) -> None:
    target = tmp_path / "store"
    with publish.alone(target):
        said = other(target)
        assert f"process {os.getpid()} of {platform.node()}" in said
        assert "`taskstore.locations.locks.waiting(SECONDS)`" in said
        assert str(tmp_path / ".store.lock") in said
        with publish.alone(target):  # the same caller may ask again
            pass
        assert other(target)
    assert other(target) == ""
    assert list(tmp_path.iterdir()) == []


def test_the_second_waits(kind: str, tmp_path: Path) -> None:
    target, said = tmp_path / "store", []
    waiter = threading.Thread(target=lambda: said.append(other(target, 60)))
    with publish.alone(target):
        waiter.start()
        waiter.join(0.2)
        assert said == []
    waiter.join()
    assert said == [""]


def test_a_folder_of_another_name_is_the_same_target(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with publish.alone(tmp_path / "real" / "store"):
        assert other(tmp_path / "link" / "store")
        assert other(tmp_path / "real" / "other") == ""


def test_what_a_killed_process_left(kind: str, tmp_path: Path) -> None:
    (tmp_path / ".store.lock").write_text(f"{GONE} {platform.node()}\n")
    assert other(tmp_path / "store") == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["", "12", "x y\n", f"{GONE} elsewhere\n", "9" * 999])
def test_without_flock_a_doubt_is_a_refusal(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "no locks here")

    monkeypatch.setattr(fcntl, "flock", refuse)
    lock = tmp_path / ".store.lock"
    lock.write_text(text)
    assert str(lock) in other(tmp_path / "store")
    assert lock.read_text() == text


def test_a_lock_file_that_is_a_link_or_a_pipe(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("x")
    (tmp_path / ".store.lock").symlink_to(tmp_path / "precious")
    assert "failed" in other(tmp_path / "store")
    assert (tmp_path / "precious").read_text() == "x"
    os.mkfifo(tmp_path / ".pipe.lock")
    assert "failed" in other(tmp_path / "pipe")


def test_many_at_once(kind: str, tmp_path: Path) -> None:
    inside, most = [0], [0]

    def write() -> None:
        for _ in range(5):
            with locks.waiting(60), publish.alone(tmp_path / "store"):
                inside[0] += 1
                most[0] = max(most[0], inside[0])
                inside[0] -= 1

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1]
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_has_another_name_is_no_lock(kind: str, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.write_text("keep")
    (tmp_path / ".store.lock").hardlink_to(mine)
    (tmp_path / ".other.lock").symlink_to(mine)
    os.mkfifo(tmp_path / ".pipe.lock")
    for name in ("store", "other", "pipe"):
        assert f".{name}.lock" in other(tmp_path / name)
    assert mine.read_text() == "keep"
