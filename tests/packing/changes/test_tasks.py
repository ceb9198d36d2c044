"""rename and copy: other names and other stores, and nothing is decoded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import taskstore
from taskstore.errors import BadName, ChecksumMismatch, InputError, TargetExists, UnknownTask
from taskstore.store.verify import verify
from tests.support import families
from tests.support.evaluators import run
from tests.support.families import same


@pytest.fixture
def store(small: families.Family, tmp_path: Path) -> taskstore.Store:
    taskstore.pack(small.base_path, small.paths, tmp_path / "s", families.options(tiers="exact"))
    return taskstore.open(tmp_path / "s")


def test_a_task_under_another_name(store: taskstore.Store, small: families.Family) -> None:
    vectors = store.manifest.vectors
    done = taskstore.rename(store, "beta", "zeta:1")
    assert done.tasks == ["alpha", "gamma", "zeta:1"]
    found = done.state_dict("zeta:1")
    assert all(same(found[name], value) for name, value in small.tasks["beta"].items())
    assert vectors is not None and done.manifest.vectors is not None
    renamed = {
        frozenset(n.replace("beta", "zeta:1") for n in p): x for p, x in vectors.pairs().items()
    }
    assert done.manifest.vectors.pairs() == renamed
    again = taskstore.rename(done, "zeta:1", "beta")
    assert again.manifest.tasks["beta"].folder is None
    assert again.manifest.vectors == vectors
    assert verify(again, deep=True).ok
    assert [change.tasks for change in again.manifest.history or ()] == [
        ["beta", "zeta:1"],
        ["zeta:1", "beta"],
    ]


def test_names_that_are_refused(store: taskstore.Store) -> None:
    version = store.version
    with pytest.raises(BadName, match="is in .* already"):
        taskstore.rename(store, "beta", "alpha")
    with pytest.raises(BadName, match="is given twice"):
        taskstore.rename(store, "beta", "Alpha")
    with pytest.raises(BadName):
        taskstore.rename(store, "beta", "../beta")
    with pytest.raises(UnknownTask, match="did you mean 'beta'"):
        taskstore.rename(store, "bta", "x")
    assert taskstore.open(store.path).version == version


def test_a_store_of_some_tasks(
    store: taskstore.Store, small: families.Family, tmp_path: Path
) -> None:
    done = taskstore.copy(store, ["gamma", "alpha"], tmp_path / "c")
    assert done.tasks == ["alpha", "gamma"]
    assert verify(done, deep=True).ok
    assert verify(done).unlisted == []
    for path in done.manifest.files:
        assert (done.path / path).read_bytes() == (store.path / path).read_bytes()
        assert (done.path / path).stat().st_ino != (store.path / path).stat().st_ino
    assert (done.manifest.history or [])[-1].before == store.version
    with pytest.raises(TargetExists):
        taskstore.copy(store, ["gamma"], tmp_path / "c")
    with pytest.raises(UnknownTask):
        taskstore.copy(store, ["x"], tmp_path / "d")
    damaged = store.path / "tasks" / "alpha" / "exact.safetensors"
    damaged.write_bytes(bytes(damaged.stat().st_size))
    with pytest.raises(ChecksumMismatch):
        taskstore.copy(store, ["alpha"], tmp_path / "d")
    assert not (tmp_path / "d").exists()
    assert taskstore.copy(store, ["beta"], tmp_path / "d").tasks == ["beta"]


def test_a_store_is_not_copied_over_itself(store: taskstore.Store, tmp_path: Path) -> None:
    before, link = store.tasks, tmp_path / "link"
    link.symlink_to(store.path)
    for target in (store.path, link):
        with pytest.raises(InputError, match="would lose its other tasks"):
            taskstore.copy(store, before[:1], target, overwrite=True)
    assert taskstore.open(store.path).tasks == before
    assert verify(store, deep=True).ok


def test_the_commands(
    store: taskstore.Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    path, version = store.path, store.version
    assert run("log", path) == (
        0,
        f"nothing was changed since it was packed\nversion {version[:12]}\n",
        "",
    )
    assert run("rename", path, "beta", "b")[0] == 0
    code, out, err = run("log", path, "--json")
    assert (code, err) == (0, "")
    (change,) = json.loads(out)["changes"]
    assert change["when"] == "2023-11-14T22:13:20Z"
    assert (change["what"], change["tasks"], change["before"]) == ("rename", ["beta", "b"], version)
    assert json.loads(out)["version"] == taskstore.open(path).version
    assert "2023-11-14T22:13:20Z  rename  beta -> b" in run("log", path)[1]
    assert run("copy", path, "b", "-o", tmp_path / "c", "-q") == (0, "", "")
    assert run("gc", path)[:2] == (0, "removed nothing; in use: 1 older version\n")
    store.close()
    assert run("gc", path)[:2] == (0, "removed nothing\n")
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "soon")
    code, out, err = run("rename", path, "b", "beta")
    assert (code, out) == (1, "")
    assert "SOURCE_DATE_EPOCH is 'soon', no number of seconds" in err
