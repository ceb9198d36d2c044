"""SPEC.md sections 5 and 8: one broken store per MUST about folders, parents and history."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import taskstore
from taskstore.errors import FormatError
from taskstore.store.verify import verify
from tests.support import families, forge
from tests.support.forge import Document

CHANGE = {"what": "add", "when": "2026-11-30T12:00:00Z", "writer": "taskstore 0.1.0"}


@pytest.fixture
def store(packed: Path, tmp_path: Path) -> Path:
    """A store of version 5: its card is not listed."""
    path = Path(shutil.copytree(packed, tmp_path / "store"))
    forge.edit(path, lambda d: [d.update(version=5), d["files"].pop("README.md")])
    return path


@pytest.fixture
def exact(small: families.Family, tmp_path: Path) -> Path:
    """A store of version 5 whose tasks may have parents."""
    path = tmp_path / "exact"
    taskstore.pack(small.base_path, small.paths, path, families.options(tiers="exact"))
    forge.edit(path, lambda d: [d.update(version=5), d["files"].pop("README.md")])
    return path


def move(store: Path, folder: str) -> None:
    """Put the files of alpha in another folder, as the manifest then says."""
    (store / "tasks" / "alpha").rename(store / "tasks" / folder)

    def change(d: Document) -> None:
        d["tasks"]["alpha"]["folder"] = folder
        old = "tasks/alpha/"
        files = {path.replace(old, f"tasks/{folder}/"): file for path, file in d["files"].items()}
        d["files"] = files

    forge.edit(store, change)


def test_a_task_lies_in_the_folder_that_is_named(store: Path) -> None:
    before = taskstore.open(store)
    expected = {name: t.clone() for name, t in before.state_dict("alpha").items()}
    sizes = before.summary().tasks
    move(store, "alpha-0123456789ab")
    after = taskstore.open(store)
    found = after.state_dict("alpha")
    assert found.keys() == expected.keys()
    assert all(bool((found[name] == expected[name]).all()) for name in found)
    assert after.summary().tasks == sizes
    assert verify(after, deep=True).ok
    assert "tasks/alpha-0123456789ab/masks.safetensors" in after.files_of("alpha")


def folder(name: object, task: str = "alpha") -> Callable[[Document], object]:
    return lambda d: d["tasks"][task].update(folder=name)


def parent(name: object, task: str = "alpha") -> Callable[[Document], object]:
    return lambda d: d["tasks"][task].update(parent=name)


def both(*changes: Callable[[Document], object]) -> Callable[[Document], object]:
    return lambda d: [change(d) for change in changes]


def history(*changes: object) -> Callable[[Document], object]:
    return lambda d: d.update(history=list(changes))


def chain(length: int) -> Callable[[Document], object]:
    """Put so many tasks one above the other."""

    def change(d: Document) -> None:
        d.pop("vectors", None)
        task = d["tasks"].pop("alpha")
        for i in range(length):
            above = {"parent": f"t{i - 1:03}"} if i else {}
            d["tasks"][f"t{i:03}"] = {**task, **above}

    return change


def nothing_coded(task: Document) -> None:
    """Leave a task nothing that is coded."""
    for entry in task["tensors"].values():
        entry.update(kind="base")


LINEAGE: dict[str, tuple[Callable[[Document], object], str]] = {
    "a parent that is not there": (parent("x"), "parent of task 'alpha', 'x', is not there"),
    "a task above itself": (parent("alpha"), "its own parent"),
    "a cycle": (both(parent("beta"), parent("alpha", "beta")), "its own parent, by 2 steps"),
    "a chain that is too deep": (chain(65), "more than 63 tasks above it"),
    "a parent in version 4": (both(parent("beta"), lambda d: d.update(version=4)), "version 1 to"),
    "a parent of less than all bits": (
        both(parent("beta"), lambda d: nothing_coded(d["tasks"]["beta"])),
        "has a parent, and 'beta' is not exact",
    ),
    "a task of less than all bits": (
        both(parent("beta"), lambda d: nothing_coded(d["tasks"]["alpha"])),
        "has a parent, and 'alpha' is not exact",
    ),
}
CASES: dict[str, tuple[Callable[[Document], object], str]] = {
    "a folder outside": (folder("../x"), "folder of task 'alpha'"),
    "a folder below": (folder("a/b"), "no plain name"),
    "a folder without a name": (folder(""), "folder of task 'alpha'"),
    "the folder of another task": (folder("BETA"), "two tasks of the store have one folder"),
    "a folder in version 4": (both(folder("x"), lambda d: d.update(version=4)), "version 1 to 4"),
    "a history in version 4": (
        both(history(CHANGE), lambda d: d.update(version=4)),
        "a history, and version 4",
    ),
    "a history of nothing": (history(), "has 0 changes"),
    "a history that is too long": (history(*[CHANGE] * 257), "has 257 changes"),
    "a change at no time": (history({**CHANGE, "when": "yesterday"}), "matching regex"),
    "a change of no checksum": (history({**CHANGE, "before": "x"}), "matching regex"),
    "a change with more": (history({**CHANGE, "x": 1}), "unknown field `x`"),
}


@pytest.mark.parametrize(("change", "message"), CASES.values(), ids=CASES)
def test_a_reader_refuses(store: Path, change: Callable[[Document], object], message: str) -> None:
    forge.edit(store, change)
    with pytest.raises(FormatError, match=message):
        taskstore.open(store)


@pytest.mark.parametrize(("change", "message"), LINEAGE.values(), ids=LINEAGE)
def test_a_reader_refuses_such_a_parent(
    exact: Path, change: Callable[[Document], object], message: str
) -> None:
    forge.edit(exact, change)
    with pytest.raises(FormatError, match=message):
        taskstore.open(exact)


def test_a_reader_takes_what_the_rules_allow(exact: Path) -> None:
    changes = [CHANGE, {**CHANGE, "tasks": ["alpha"], "before": "0" * 64}]
    forge.edit(exact, both(history(*changes), parent("alpha", "beta")))
    opened = taskstore.open(exact)
    assert opened.manifest.history is not None
    assert [change.tasks for change in opened.manifest.history] == [[], ["alpha"]]


def test_the_deepest_chain_that_is_allowed(exact: Path) -> None:
    forge.edit(exact, chain(64))
    with pytest.raises(FormatError, match="lacks section"):  # they have no files
        taskstore.open(exact).state_dict("t063")
