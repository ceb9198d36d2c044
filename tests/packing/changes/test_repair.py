"""A damaged or missing file comes back byte for byte, from a copy or an original, or not at all."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import taskstore
from taskstore.errors import FormatError, NewerVersion
from taskstore.packing.changes.repair import repair
from taskstore.store.verify import verify
from tests.support import families, forge
from tests.support.evaluators import run
from tests.support.families import contents


@pytest.fixture
def store(small: families.Family, tmp_path: Path) -> taskstore.Store:
    chosen = families.options(tiers="rest,exact", residual=1.5, parent="none")
    taskstore.pack(small.base_path, small.paths, tmp_path / "s", chosen)
    return taskstore.open(tmp_path / "s")


def files_of(store: taskstore.Store, start: str) -> list[str]:
    return [path for path in store.manifest.files if path.startswith(start)]


def spoil(store: taskstore.Store, *paths: str) -> None:
    """Flip a bit of every other file, and delete the others."""
    for number, path in enumerate(paths):
        raw = bytearray((store.path / path).read_bytes())
        (store.path / path).unlink()
        if number % 2 == 0 and raw:
            raw[len(raw) // 2] ^= 4
            (store.path / path).write_bytes(raw)


def test_from_a_copy(small: families.Family, tmp_path: Path) -> None:
    chosen = families.options(tiers="mask,rest,exact", residual=1.5)
    taskstore.pack(small.base_path, small.paths, tmp_path / "s", chosen)
    store = taskstore.open(tmp_path / "s")
    shutil.copytree(store.path, tmp_path / "backup")
    before = contents(store.path)
    spoil(store, *store.manifest.files)
    report = verify(store)
    assert report.lost == store.tasks
    done = repair(taskstore.open(store.path), [tmp_path / "backup"])
    assert sorted(done.mended) == sorted(store.manifest.files)
    assert done.left == []
    assert contents(store.path) == before
    assert verify(taskstore.open(store.path), deep=True).ok


def test_from_an_original(store: taskstore.Store, small: families.Family, tmp_path: Path) -> None:
    """Its own files come back, and no other's; what it does not give is left."""
    before = contents(store.path)
    paths = files_of(store, "tasks/beta/")
    assert len(paths) == 2
    spoil(store, *paths)
    assert verify(store).lost == ["beta"]
    wrong = repair(taskstore.open(store.path), [small.paths["alpha"]])
    assert (wrong.mended, sorted(wrong.left)) == ([], sorted(paths))
    assert "does not give back beta byte" in wrong.notes[-1]
    done = repair(taskstore.open(store.path), [small.paths["beta"]])
    assert (sorted(done.mended), done.left) == (sorted(paths), [])
    assert contents(store.path) == before


def test_of_a_task_that_was_added(
    store: taskstore.Store, small: families.Family, tmp_path: Path
) -> None:
    """It lies in a folder of its own name; a copy of the store has the same files elsewhere."""
    taskstore.replace(store, {"beta": small.paths["gamma"]})
    now = taskstore.open(store.path)
    before = contents(now.path)
    spoil(now, *files_of(now, f"tasks/{now.manifest.folder('beta')}/"))
    done = repair(now, [small.paths["gamma"]])
    assert done.left == []
    assert contents(store.path) == before
    some = taskstore.copy(taskstore.open(store.path), ["beta"], tmp_path / "c")
    taskstore.rename(some, "beta", "other")
    spoil(now, *files_of(some, "base"), *files_of(some, "assets"))
    assert repair(taskstore.open(store.path), [some.path]).left == []
    assert contents(store.path) == before


def test_the_base_from_its_folder(
    store: taskstore.Store, small: families.Family, tmp_path: Path
) -> None:
    before = contents(store.path)
    spoil(store, "base.safetensors", "README.md")
    assert verify(store).lost == store.tasks
    done = repair(taskstore.open(store.path), [small.base_path])
    assert sorted(done.mended) == ["README.md", "base.safetensors"]
    assert contents(store.path) == before


def test_configs_from_the_original(store: taskstore.Store, small: families.Family) -> None:
    before = contents(store.path)
    assets = files_of(store, "assets")
    spoil(store, *assets)
    done = repair(store.path, [small.base_path, *small.paths.values()])
    assert (sorted(done.mended), done.left) == (sorted(assets), [])
    assert contents(store.path) == before


def test_the_command(store: taskstore.Store, small: families.Family, tmp_path: Path) -> None:
    before = contents(store.path)
    spoil(store, "tasks/alpha/exact.safetensors")
    code, _, err = run("verify", store.path)
    assert code == 1
    assert "this costs alpha; mend it: taskstore repair" in err
    code, out, err = run("repair", store.path, "--from", small.paths["beta"])
    assert code == 1
    assert "mended nothing" in out
    assert "damaged: tasks/alpha/exact.safetensors" in err
    code, _, err = run("repair", store.path, "--from", tmp_path / "nothing")
    assert code == 1
    assert "Traceback" not in err
    code, out, err = run("repair", store.path, "--from", small.paths["alpha"])
    assert (code, err) == (0, "")
    assert "mended tasks/alpha/exact.safetensors" in out
    assert contents(store.path) == before


@pytest.mark.parametrize("tiers", ["exact", "rest,exact", "mask,exact"])
def test_of_a_chain_from_originals(tiers: str, tmp_path: Path) -> None:
    """A task is coded against its parent as it was; a parent that is damaged too comes first."""
    state = base = families.random_state(0)
    tasks = {}
    for i, name in enumerate(("alpha", "beta", "gamma")):
        tasks[name] = state = families.tuned(state, i, 0.001)
    run_of = families.Family(tmp_path / "run", base, tasks)
    how = families.options(tiers=tiers, parents={"beta": "alpha", "gamma": "beta"}, parent="none")
    taskstore.pack(run_of.base_path, run_of.paths, tmp_path / "s", how)
    store = taskstore.open(tmp_path / "s")
    before = contents(store.path)
    exact = "tasks/{}/exact.safetensors"
    spoil(store, exact.format("gamma"))
    done = repair(taskstore.open(store.path), [run_of.paths["gamma"]])
    assert (done.mended, done.left, done.notes) == ([exact.format("gamma")], [], [])
    assert contents(store.path) == before
    spoil(store, exact.format("gamma"), exact.format("beta"))
    done = repair(taskstore.open(store.path), [run_of.paths["gamma"]])
    assert len(done.left) == 2
    assert "'gamma' is coded against 'beta', whose tasks/beta/exact" in done.notes[0]
    done = repair(taskstore.open(store.path), [run_of.paths[name] for name in ("gamma", "beta")])
    assert (len(done.mended), done.left, done.notes) == (2, [], [])
    assert contents(store.path) == before


def test_of_a_child_of_another_tier(small: families.Family, tmp_path: Path) -> None:
    how = families.options(
        tiers="exact", own_tiers={"alpha": "rest,exact"}, parents={"beta": "alpha"}
    )
    taskstore.pack(small.base_path, small.paths, tmp_path / "s", how)
    store = taskstore.open(tmp_path / "s")
    before = contents(store.path)
    spoil(store, "tasks/beta/exact.safetensors")
    assert repair(taskstore.open(store.path), [small.paths["beta"]]).left == []
    assert contents(store.path) == before


@pytest.mark.parametrize("damage", ["byte", "cut", "gone"])
def test_a_damaged_manifest_comes_from_a_copy(
    store: taskstore.Store, small: families.Family, tmp_path: Path, damage: str
) -> None:
    """Every command that reads the store says so; another store of the same base is no copy."""
    copy, manifest, before = tmp_path / "copy", store.path / "taskstore.json", contents(store.path)
    shutil.copytree(store.path, copy)
    raw, exact = manifest.read_bytes(), files_of(store, "tasks/")[0]
    store.close()
    if damage == "gone":
        manifest.unlink()
    else:
        manifest.write_bytes(b"\x07" + raw[1:] if damage == "byte" else raw[:-100])
    for command in ("info", "verify"):
        code, _, err = run(command, store.path)
        assert code == 1
        assert f"`taskstore repair {store.path} --from COPY` puts it back from a copy" in err
    (store.path / exact).unlink()
    damaged = contents(store.path)
    other = {"alpha": small.paths["gamma"]}
    taskstore.pack(small.base_path, other, tmp_path / "o", families.options(tiers="rest,exact"))
    code, _, err = run("repair", store.path, "--from", tmp_path / "o")
    assert code == 1
    assert "is no copy of it" in err
    code, _, err = run("repair", store.path, "--from", tmp_path / "gone")
    assert code == 1 and f"{tmp_path / 'gone'} is no store" in err
    code, out, err = run("repair", store.path, "--from", copy, "--dry-run")
    assert (code, err) == (0, "")
    assert f"would put back: taskstore.json, from {copy}" in out
    assert contents(store.path) == damaged
    code, out, err = run("repair", store.path, "--from", copy)
    assert code == 0
    assert f"mended taskstore.json, {exact}" in out
    assert f"note: taskstore.json: from {copy}, of 3 tasks" in err
    assert contents(store.path) == before


def test_a_damaged_manifest_comes_from_before_the_last_change(
    store: taskstore.Store, small: families.Family
) -> None:
    """That is kept while somebody reads it."""
    tasks = store.tasks
    taskstore.remove(taskstore.open(store.path), ["beta"])
    (store.path / "taskstore.json").write_bytes(b"{")
    with pytest.raises(FormatError, match="`taskstore repair .*` as it was before the last change"):
        taskstore.open(store.path)
    done = repair(store.path)
    assert (done.mended, done.left) == (["taskstore.json", "README.md"], [])
    assert "as it was before the last change, of 3 tasks" in done.notes[0]
    assert taskstore.open(store.path).tasks == tasks
    assert verify(taskstore.open(store.path), deep=True).ok


def test_an_old_copy_does_not_hide_later_tasks(store: taskstore.Store, tmp_path: Path) -> None:
    """A manifest that the store keeps has tasks that a copy lacks, whose files would go."""
    old = taskstore.copy(taskstore.open(store.path), ["alpha"], tmp_path / "old")
    reader = taskstore.open(store.path)
    taskstore.remove(taskstore.open(store.path), ["gamma"])
    (store.path / "taskstore.json").write_bytes(b"{")
    done = repair(store.path, [old.path])
    assert "as it was before the last change, of 3 tasks" in done.notes[0]
    assert taskstore.open(store.path).tasks == reader.tasks


def test_a_manifest_that_was_written_so_is_left(store: taskstore.Store, tmp_path: Path) -> None:
    shutil.copytree(store.path, tmp_path / "copy")
    forge.edit(store.path, lambda document: document.update(version=99))
    with pytest.raises(NewerVersion):
        repair(store.path, [tmp_path / "copy"])


def test_a_dry_run_names_the_files(store: taskstore.Store, tmp_path: Path) -> None:
    shutil.copytree(store.path, tmp_path / "copy")
    paths = files_of(store, "tasks/beta/")
    spoil(store, *paths)
    damaged = contents(store.path)
    code, out, _ = run("repair", store.path, "--from", tmp_path / "copy", "--dry-run")
    assert code == 0
    assert [line for line in out.splitlines() if line.startswith("would mend")] == [
        f"would mend: {path}" for path in sorted(paths)
    ]
    assert contents(store.path) == damaged
