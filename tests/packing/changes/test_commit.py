"""A change writes what changed: other files stay the same inodes, and readers read on."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import taskstore
from taskstore.errors import OutputError, TaskstoreError
from taskstore.format.manifest import Score, from_bytes
from taskstore.packing import revise
from taskstore.packing.changes.commit import collect
from taskstore.packing.changes.tasks import rename
from taskstore.store.verify import verify
from tests.support import families
from tests.support.families import same

Change = Callable[[taskstore.Store, families.Family], object]
CHANGES: dict[str, Change] = {
    "add": lambda s, f: revise.add(s, {"gamma": f.paths["gamma"]}),
    "replace": lambda s, f: revise.replace_tasks(s, {"beta": f.paths["gamma"]}),
    "rename": lambda s, _: rename(s, "beta", "b/eta"),
    "remove": lambda s, _: taskstore.remove(s, ["beta"]),
    "record": lambda s, _: revise.record(s, "x", {"beta": Score(rebuilt=1)}),
}
TIERS = ["mask", "rest", "exact", "mask,exact"]


def made(family: families.Family, path: Path, tiers: str) -> taskstore.Store:
    two = {task: family.paths[task] for task in ("alpha", "beta")}
    taskstore.pack(family.base_path, two, path, families.options(tiers=tiers))
    return taskstore.open(path)


def stamps(path: Path) -> dict[str, tuple[int, int, bytes]]:
    """Inode, time of change and content of every data file."""
    files = {p.relative_to(path).as_posix(): p for p in path.rglob("*") if p.is_file()}
    data = {name: p for name, p in files.items() if name not in ("README.md", "taskstore.json")}
    return {n: (p.stat().st_ino, p.stat().st_mtime_ns, p.read_bytes()) for n, p in data.items()}


@pytest.mark.parametrize("tiers", TIERS)
@pytest.mark.parametrize("change", CHANGES)
def test_other_files_are_not_touched(
    small: families.Family, tmp_path: Path, change: str, tiers: str
) -> None:
    store = made(small, tmp_path / "s", tiers)
    before, version = stamps(store.path), store.version
    CHANGES[change](store, small)
    after, now = stamps(store.path), taskstore.open(store.path)
    assert now.manifest == from_bytes((store.path / "taskstore.json").read_bytes())
    kept = before.keys() & after.keys()
    went = change in ("replace", "remove")
    files = {name for name in before if name.startswith("tasks/beta/")}
    gone = {name for name in before.keys() - kept if not name.startswith("assets/")}
    assert gone == (files if went else set())
    assert all(after[name] == before[name] for name in kept)
    assert now.version != version
    assert now.manifest.history is not None
    assert (now.manifest.history[-1].what, now.manifest.history[-1].before) == (change, version)
    assert verify(now, deep=True).ok
    assert verify(now).unlisted == []
    assert [p.name for p in tmp_path.iterdir()] == ["s"]
    assert not [name for name in os.listdir(store.path) if name.startswith(".")]


@pytest.mark.parametrize("change", CHANGES)
def test_who_has_the_store_open_reads_on(
    small: families.Family, tmp_path: Path, change: str
) -> None:
    """Through two changes; what only that reader needs goes when it has closed the store."""
    reader = made(small, tmp_path / "s", "exact")
    CHANGES[change](taskstore.open(reader.path), small)
    last = taskstore.open(reader.path).tasks[-1]
    revise.record(taskstore.open(reader.path), "y", {last: Score(rebuilt=1)})
    for task in ("alpha", "beta"):
        found = reader.state_dict(task)
        assert all(same(found[name], value) for name, value in small.tasks[task].items())
    assert verify(reader, deep=True).ok
    assert verify(taskstore.open(reader.path)).unlisted == []
    needed = {*reader.manifest.files} - {*taskstore.open(reader.path).manifest.files}
    assert collect(reader.path) == (0, 1)
    reader.close()
    size, left = collect(reader.path)
    assert left == 0
    assert (size > 0) == bool(needed - {"README.md"})
    assert not (reader.path / ".taskstore.old").exists()


def no_links(*_: Any, **__: Any) -> None:
    raise OSError(errno.EPERM, "no links here")


def test_a_file_system_without_links(
    small: families.Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody can know who reads the copy of a manifest, so its files stay at first."""
    monkeypatch.setattr(os, "link", no_links)
    reader = made(small, tmp_path / "s", "exact")
    taskstore.remove(taskstore.open(reader.path), ["beta"])
    found = reader.state_dict("beta")
    assert all(same(found[name], value) for name, value in small.tasks["beta"].items())
    assert collect(reader.path) == (0, 1)
    size, left = collect(reader.path, unknown=True)
    assert (size > 0, left) == (True, 0)
    assert verify(taskstore.open(reader.path), deep=True).ok


def test_a_file_system_without_locks(
    small: families.Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = made(small, tmp_path / "s", "exact")

    def none(*_: object) -> None:
        raise OSError(errno.ENOLCK, "no locks here")

    monkeypatch.setattr(fcntl, "flock", none)
    reader = taskstore.open(store.path)
    taskstore.remove(taskstore.open(store.path), ["beta"])
    assert reader.state_dict("beta").keys() == small.tasks["beta"].keys()
    assert collect(store.path, unknown=True)[1] == 0


def test_a_full_disk(
    small: families.Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At each rename: the store is as it was, and nothing is left."""
    store = made(small, tmp_path / "s", "exact")
    before, rename_ = stamps(store.path), os.rename
    for last in range(1, 12):
        count = 0

        def full(*paths: Any, last: int = last) -> None:
            nonlocal count
            count += 1
            if count == last:
                raise OSError(errno.ENOSPC, "No space left on device")
            rename_(*paths)

        with monkeypatch.context() as patch:
            patch.setattr(os, "rename", full)
            try:
                revise.add(taskstore.open(store.path), {"gamma": small.paths["gamma"]})
                break
            except (TaskstoreError, OSError) as error:
                said = str(error)
        assert "o space left" in said
        assert stamps(store.path).items() >= before.items()
        assert taskstore.open(store.path).version == store.version, last
        assert [p.name for p in tmp_path.iterdir()] == ["s"], last
        collect(store.path)
        assert stamps(store.path) == before, last
    assert last > 3
    assert verify(taskstore.open(store.path), deep=True).ok


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_store(small: families.Family, tmp_path: Path) -> None:
    store = made(small, tmp_path / "here" / "s", "exact")
    os.chmod(store.path, 0o500)
    os.chmod(store.path.parent, 0o500)
    try:
        with pytest.raises(OutputError):
            taskstore.remove(store, ["beta"])
        assert store.state_dict("beta")
    finally:
        os.chmod(store.path.parent, 0o700)
        os.chmod(store.path, 0o700)


def test_a_hostile_older_manifest_deletes_nothing_outside(
    small: families.Family, tmp_path: Path
) -> None:
    """A link in the store leads out of it; no file behind it goes."""
    store = made(small, tmp_path / "s", "exact")
    outside = tmp_path / "outside"
    shutil.copytree(store.path / "tasks" / "beta", outside)
    left = taskstore.remove(taskstore.open(store.path), ["beta"])  # `store` reads on
    shutil.rmtree(store.path / "tasks" / "beta")
    (store.path / "tasks" / "beta").symlink_to(outside)
    store.close()
    assert collect(left.path)[1] == 0
    assert (outside / "exact.safetensors").is_file()


def test_two_changes_of_one_reader(small: families.Family, tmp_path: Path) -> None:
    """A link to the store has the store's own lock."""
    store = made(small, tmp_path / "s", "exact")
    (tmp_path / "link").symlink_to(store.path)
    left = taskstore.remove(taskstore.open(tmp_path / "link"), ["beta"])
    assert left.tasks == taskstore.open(store.path).tasks == ["alpha"]
    assert (tmp_path / "link").is_symlink()
