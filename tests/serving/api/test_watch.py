"""A server follows its store: new tasks, new weights, and tasks that went."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from taskstore_serving.api.watch import watch
from taskstore_serving.weights.digests import task_digest

import taskstore
from taskstore import AddOptions, Store
from taskstore.errors import InputError
from tests.support import families


class Served:
    """The tasks of a server, without its engine."""

    def __init__(self, path: Path, *tasks: str) -> None:
        self.path, self.calls = path, list[tuple[str, str]]()
        self.change: Callable[[], object] = lambda: None  # of the store, by somebody else
        self.refused: set[str] = set()
        self.reads = 0
        self.tasks: dict[str, object] = {task: self.digest(task) for task in tasks}

    def digest(self, task: str) -> str:
        return task_digest(self.store.manifest, task, 0)

    @property
    def store(self) -> Store:
        self.reads += 1
        return taskstore.open(self.path)

    def is_current(self, task: str) -> bool:
        return self.tasks[task] == self.digest(task)

    async def add(self, task: str) -> None:
        self.calls.append(("add", task))
        if task in self.refused:
            raise InputError("it does not fit")
        self.tasks[task] = self.digest(task)

    async def remove(self, task: str, wait: float) -> None:
        self.calls.append(("remove", task))
        del self.tasks[task]


@pytest.fixture
def path(small: families.Family, tmp_path: Path) -> Path:
    two = {task: small.paths[task] for task in ("alpha", "beta")}
    taskstore.pack(small.base_path, two, tmp_path / "s", families.options())
    return tmp_path / "s"


async def seen(served: Served, calls: int, *, new: bool) -> None:
    """Watch until so many calls were made."""
    following = asyncio.create_task(watch(served, new=new, seconds=0.01))
    await asyncio.to_thread(served.change)
    until = asyncio.get_running_loop().time() + 120
    while len(served.calls) < calls and asyncio.get_running_loop().time() < until:
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.1)  # no more of them
    following.cancel()


def test_a_task_that_goes_in_the_middle_does_not_end_it(
    small: families.Family, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served, current = Served(path, "alpha", "beta"), Served.is_current
    gone = [KeyError("gone")]

    def once(self: Served, task: str) -> bool:
        if gone:
            raise gone.pop()
        return current(self, task)

    monkeypatch.setattr(Served, "is_current", once)
    new = {"gamma": small.paths["gamma"]}
    served.change = lambda: taskstore.add(path, new, AddOptions(max_error=None))
    asyncio.run(seen(served, 1, new=True))
    assert served.calls == [("add", "gamma")]
    assert not gone


@pytest.mark.parametrize("new", [True, False])
def test_it_follows_every_change(small: families.Family, path: Path, new: bool) -> None:
    served = Served(path, "alpha", "beta")
    served.refused = {"delta"}
    kept = AddOptions(max_error=None)
    some = {"gamma": small.paths["gamma"], "delta": small.paths["gamma"]}
    served.change = lambda: taskstore.add(path, some, kept)
    asyncio.run(seen(served, 2 if new else 0, new=new))
    assert served.calls == ([("add", "delta"), ("add", "gamma")] if new else [])
    assert set(served.tasks) == {"alpha", "beta", *(["gamma"] if new else [])}
    served.calls.clear()
    served.refused = set()
    served.change = lambda: taskstore.replace(path, {"beta": small.paths["gamma"]}, kept)
    asyncio.run(seen(served, 2 if new else 1, new=new))
    assert ("add", "beta") in served.calls
    assert served.is_current("beta")
    served.calls.clear()
    served.change = lambda: taskstore.remove(path, ["alpha"])
    asyncio.run(seen(served, 1, new=new))
    assert served.calls[0] == ("remove", "alpha")


def test_a_store_that_is_away_for_a_moment(path: Path) -> None:
    served = Served(path, "alpha", "beta")
    served.change = lambda: shutil.move(path, path.with_name("away"))
    asyncio.run(seen(served, 0, new=True))
    shutil.move(path.with_name("away"), path)
    assert served.calls == []


def test_a_manifest_that_is_the_same_file_is_not_read_again(path: Path) -> None:
    served = Served(path, "alpha", "beta")
    before = served.reads
    asyncio.run(seen(served, 0, new=True))
    assert served.reads <= before + 4  # to see it, and to compare two tasks
    assert served.calls == []
