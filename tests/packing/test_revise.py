"""add, remove, retier: a store changed without the originals equals one packed from them."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import msgspec
import pytest

import taskstore
from taskstore.errors import (
    BadName,
    ChangedMeanwhile,
    ChecksumMismatch,
    FormatError,
    InputError,
    TargetExists,
    UnknownTask,
)
from taskstore.executors import threads
from taskstore.format import manifest as manifests
from taskstore.format.manifest import Score
from taskstore.packing.changes.commit import collect
from taskstore.packing.changes.options import AddOptions
from taskstore.packing.changes.tasks import remove
from taskstore.packing.revise import add, record, retier
from taskstore.store.as_checkpoint import open_family
from taskstore.store.verify import verify
from tests.support import families, forge
from tests.support.evaluators import run, script
from tests.support.families import contents, options, same


def packed(
    family: families.Family, target: Path, *tasks: str, **changes: object
) -> taskstore.Store:
    paths = {task: family.paths[task] for task in tasks or family.paths}
    taskstore.pack(family.base_path, paths, target, options(**changes))
    return taskstore.open(target)


@pytest.fixture
def rich(tmp_path: Path) -> families.Family:
    """Tied, grown, private, empty and integer tensors, and assets of a task's own."""
    base, tasks = families.rich_states()
    return families.Family(tmp_path / "family", base, tasks)


def test_models_of_a_store_read_like_their_folders(rich: families.Family, tmp_path: Path) -> None:
    store = packed(rich, tmp_path / "s", tiers="exact")
    states = [rich.base, *(rich.tasks[task] for task in store.tasks)]
    with open_family(store, store.tasks, threads(2)) as family:
        for model, state in zip((family.base, *family.tasks), states, strict=True):
            assert sorted(model.tensors) == sorted(state)
            for name, value in state.items():
                n, size = value.numel(), value.element_size()
                raw = families.bits(value).numpy()
                for start, stop in ((0, n), (5, 6), (250, 300), (n, n)):
                    if stop <= n:
                        found = model.read(name, start, stop)
                        assert found.view("u1").tolist() == raw[start * size : stop * size].tolist()


@pytest.mark.parametrize("base", ["embed", "reference"])
def test_add_gives_what_packing_all_gives(base: str, rich: families.Family, tmp_path: Path) -> None:
    expected = packed(rich, tmp_path / "all", tiers="exact", base=base)
    store = packed(rich, tmp_path / "s", "two", tiers="exact", base=base)
    old = contents(store.path)
    report = add(store, {"one": rich.paths["one"], "three": rich.paths["three"]})
    assert report.summary.tasks[0].name == "one"
    ours, theirs = contents(tmp_path / "s"), contents(expected.path)
    changed = {"README.md", "taskstore.json"}
    assert all(ours[path] == old[path] for path in old.keys() - changed)
    plain = {
        re.sub(r"(tasks/[a-z]+)-[0-9a-f]{12}/", r"\1/", path): raw for path, raw in ours.items()
    }
    assert plain.keys() == theirs.keys()
    assert all(plain[path] == theirs[path] for path in plain.keys() - changed)
    assert sorted(os.listdir(tmp_path)) == ["all", "family", "s"]
    for task, state in rich.tasks.items():
        rebuilt = taskstore.open(tmp_path / "s").state_dict(task)
        assert all(same(rebuilt[name], value) for name, value in state.items())


@pytest.mark.parametrize("tiers", ["exact", "mask"])
def test_remove_leaves_the_others_as_they_are(
    tiers: str, rich: families.Family, tmp_path: Path
) -> None:
    store = packed(rich, tmp_path / "s", tiers=tiers)
    before = {task: store.state_dict(task) for task in ("one", None)}
    left = remove(store, ["two", "three"])
    assert left.tasks == ["one"]
    assert not (tmp_path / "s" / "tasks" / "two").exists()
    assert verify(left, deep=True).ok
    assert verify(left).unlisted == []
    for task, state in before.items():
        after = left.state_dict(task)
        assert all(same(after[name], state[name]) for name in state)
    assert "# base: 1 fine-tune of one base" in (tmp_path / "s" / "README.md").read_text()


def test_retier_gives_what_packing_gives(rich: families.Family, tmp_path: Path) -> None:
    store = packed(rich, tmp_path / "s", tiers="exact")
    expected = packed(rich, tmp_path / "masks")
    retier(store, options(), tmp_path / "new")
    assert contents(tmp_path / "new") == contents(expected.path)
    retier(store, options())
    ours, theirs = contents(tmp_path / "s"), contents(expected.path)
    for found in (ours, theirs):
        del found["README.md"], found["taskstore.json"]  # the store's history
    assert set(theirs.values()) < set(ours.values())  # under names by their content
    more = [path for path, raw in ours.items() if raw not in theirs.values()]
    assert len(more) == 1  # what the base's own file has beside its tensors
    assert more[0].startswith("assets/")
    assert [c.what for c in taskstore.open(tmp_path / "s").manifest.history or ()] == ["retier"]


def test_retier_in_its_place_leaves_readers_alone(small: families.Family, tmp_path: Path) -> None:
    """Masks over another multi-task model, too, and back: all that one reads lies side by side."""
    store = packed(small, tmp_path / "s", tiers="mask,exact", level="archive")
    states = {tier: store.state_dict("beta", tier=tier) for tier in ("mask", "exact")}
    base = (store.path / "base.safetensors").stat()
    ways = [options(tiers="mask,exact", lam=0.9, method="lsq"), options(tiers="exact")]
    ways += [options(tiers="mask,exact", level="archive")]
    readers = [taskstore.open(store.path)]
    for way in ways:
        retier(taskstore.open(store.path), way)
        readers.append(taskstore.open(store.path))
        assert os.path.samestat(base, (store.path / "base.safetensors").stat())
        assert verify(readers[-1], deep=True).ok
        for tier, state in states.items():
            assert same(
                readers[0].state_dict("beta", tier=tier)["layers.0.attn.weight"],
                state["layers.0.attn.weight"],
            )
        assert same(
            readers[1].state_dict("beta")["layers.0.attn.weight"],
            states["exact"]["layers.0.attn.weight"],
        )
    assert same(
        readers[-1].state_dict("beta", tier="mask")["layers.0.attn.weight"],
        states["mask"]["layers.0.attn.weight"],
    )
    models = [path.name for path in store.path.glob("multitask-*.safetensors")]
    assert len(models) == 2  # beside the one that was packed
    for reader in (store, *readers):
        reader.close()
    collect(store.path)
    assert len(list(store.path.glob("multitask*.safetensors"))) == 1
    with pytest.raises(TargetExists):
        retier(taskstore.open(store.path), options(), store.path)


def test_what_is_refused(small: families.Family, tmp_path: Path) -> None:
    masks = packed(small, tmp_path / "masks", "alpha", "beta")
    exact = packed(small, tmp_path / "exact", "alpha", "beta", tiers="exact")
    before = contents(masks.path), contents(exact.path)
    with pytest.raises(InputError, match="keeps no more of 'alpha' than its mask; pack again"):
        add(masks, {"gamma": small.paths["gamma"]}, AddOptions(repack=True))
    with pytest.raises(InputError, match="has no multi-task model that a mask could select from"):
        add(exact, {"gamma": small.paths["gamma"]}, AddOptions(tiers="mask"))
    with pytest.raises(InputError, match="to change tiers all fine-tunes are needed"):
        retier(masks, options())
    with pytest.raises(BadName, match=r"'alpha' is in .* already; taskstore replace changes it"):
        add(exact, {"alpha": small.paths["alpha"]})
    with pytest.raises(BadName, match="is given twice"):
        add(exact, {"Alpha": small.paths["alpha"]})
    with pytest.raises(InputError):
        add(exact, {"gamma": tmp_path / "nowhere"})
    with pytest.raises(UnknownTask, match="did you mean 'beta'"):
        remove(exact, ["bta"])
    with pytest.raises(InputError, match="would have no task left"):
        remove(exact, ["alpha", "beta"])
    assert (contents(masks.path), contents(exact.path)) == before


def test_a_damaged_store_is_not_built_upon(small: families.Family, tmp_path: Path) -> None:
    store = packed(small, tmp_path / "s", "alpha", "beta", tiers="exact")
    path = tmp_path / "s" / "tasks" / "alpha" / "exact.safetensors"
    raw = bytearray(path.read_bytes())
    raw[-100] ^= 1
    path.write_bytes(raw)
    with pytest.raises(ChecksumMismatch):
        add(store, {"gamma": small.paths["gamma"]}, AddOptions(repack=True))
    with pytest.raises(ChecksumMismatch):
        retier(store, options(), tmp_path / "new")
    assert path.read_bytes() == raw
    left = remove(store, ["alpha"])  # what is taken away may be damaged
    assert left.tasks == ["beta"]
    base = store.path / "base.safetensors"
    raw = bytearray(base.read_bytes())
    raw[-200] ^= 1
    base.write_bytes(raw)
    with pytest.raises(ChecksumMismatch):
        add(left, {"gamma": small.paths["gamma"]})
    assert taskstore.open(store.path).version == left.version


def test_the_commands(small: families.Family, tmp_path: Path) -> None:
    store = packed(small, tmp_path / "s", "alpha", "beta", tiers="exact").path
    code, out, err = run("add", store, f"new={small.paths['gamma']}", "--json")
    assert code == 0, err
    assert [t["name"] for t in json.loads(out)["tasks"]] == ["alpha", "beta", "new"]
    code, out, err = run("remove", store, "new", "--yes")
    assert code == 0, err
    assert "new" not in out.split()
    assert run("retier", store, "--tiers", "mask")[0] == 2
    code, out, err = run("retier", store, "--tiers", "mask", "-o", tmp_path / "m", "--lambda", 0.4)
    assert code == 0, err
    assert "masks of 2 tasks" in run("info", tmp_path / "m")[1]
    code, out, err = run("add", tmp_path / "m", small.paths["gamma"], "--repack")
    assert (code, out) == (1, "")
    assert "keeps no more of 'alpha' than its mask" in err
    assert run("retier", store, "--tiers", "mask", "--drop-exact", "--quiet")[:2] == (0, "")
    history = [change.what for change in taskstore.open(store).manifest.history or ()]
    assert history == ["add", "remove", "retier"]


@pytest.mark.parametrize("tiers", ["exact", "mask"])
def test_scores_are_recorded_and_shown(tiers: str, small: families.Family, tmp_path: Path) -> None:
    store = packed(small, tmp_path / "s", tiers=tiers)
    before = {task: store.state_dict(task) for task in (None, *store.tasks)}
    record(store, "exact match, test", {"alpha": Score(rebuilt=0.5, base=0.0, original=0.625)})
    record(taskstore.open(store.path), "lm-eval", {"beta": Score(rebuilt=0.25)})
    again = taskstore.open(store.path)
    assert again.manifest.version == 5
    assert again.manifest.tasks["gamma"].scores is None
    assert again.summary().tasks[0].scores == {
        "exact match, test": {"rebuilt": 0.5, "base": 0.0, "original": 0.625}
    }
    assert verify(again, deep=True).ok
    for task, state in before.items():
        found = again.state_dict(task)
        assert all(same(found[name], state[name]) for name in state)
    card = (store.path / "README.md").read_text()
    assert "exact match, test:" in card
    assert "| alpha | 0 | 0.625 | 0.5 |" in card
    assert "| beta | - | - | 0.25 |" in card
    _, out, _ = run("info", store.path)
    assert "80.0%" in out
    with pytest.raises(BadName, match="name of the evaluation"):
        record(again, " ", {})
    with pytest.raises(UnknownTask):
        record(again, "x", {"alpa": Score(rebuilt=1)})
    forge.edit(store.path, lambda d: d.update(version=1))
    with pytest.raises(FormatError, match="in a store of version 1"):
        taskstore.open(store.path)


def test_scores_of_exact_tasks_outlive_a_new_packing(
    small: families.Family, tmp_path: Path
) -> None:
    store = packed(small, tmp_path / "s", "alpha", "beta", tiers="mask,exact")
    record(store, "x", {"alpha": Score(rebuilt=0.5, original=0.5, lower={"mask": 0.25})})
    gamma, repack = {"gamma": small.paths["gamma"]}, AddOptions(repack=True)
    add(taskstore.open(tmp_path / "s"), gamma, repack)
    kept = {"x": Score(rebuilt=0.5, original=0.5)}  # the masks are others now
    store = taskstore.open(tmp_path / "s")
    assert [t.scores for t in store.manifest.tasks.values()] == [kept, None, None]
    for tiers, left in (("exact", kept), ("mask", None)):
        retier(store, options(tiers=tiers), tmp_path / tiers)
        assert taskstore.open(tmp_path / tiers).manifest.tasks["alpha"].scores == left


def test_eval_records(small: families.Family, tmp_path: Path) -> None:
    store = packed(small, tmp_path / "s").path
    command = script(tmp_path, "print(0.5)")
    code, _, err = run("eval", store, "beta", "--eval", command, "--record", "halves")
    assert code == 0, err
    tasks = json.loads(run("info", store, "--json")[1])["tasks"]
    assert [t["scores"] for t in tasks] == [{}, {"halves": {"rebuilt": 0.5}}, {}]
    assert run("verify", store, "--deep")[0] == 0


def test_files_that_are_not_the_stores_are_not_lost(small: families.Family, tmp_path: Path) -> None:
    """A clone of a repository, say: its history lies in the same folder."""
    store = packed(small, tmp_path / "s", "alpha", "beta", tiers="exact")
    (store.path / ".git").mkdir()
    (store.path / ".git" / "HEAD").write_text("ref: refs/heads/main")
    retier(store, options(tiers="rest,exact"))
    add(taskstore.open(store.path), {"gamma": small.paths["gamma"]})
    record(remove(taskstore.open(store.path), ["beta"]), "x", {"alpha": Score(rebuilt=1)})
    assert (store.path / ".git" / "HEAD").read_text() == "ref: refs/heads/main"


def test_a_store_that_another_has_changed(small: families.Family, tmp_path: Path) -> None:
    """Nothing is lost: who read the old one is refused, and its scores go to the new one."""
    store = packed(small, tmp_path / "s", tiers="exact")
    first, second, third = store.tasks
    remove(taskstore.open(store.path), [first])
    for late in (
        lambda: add(store, {"new": small.paths[second]}),
        lambda: remove(store, [second]),
        lambda: retier(store, options(tiers="mask")),
        lambda: record(store, "late", {first: Score(rebuilt=1)}),
    ):
        with pytest.raises(ChangedMeanwhile, match="was changed by another taskstore"):
            late()
    assert taskstore.open(store.path).tasks == [second, third]
    record(taskstore.open(store.path), "one", {second: Score(rebuilt=0.5)})
    left = record(store, "two", {second: Score(rebuilt=0.25)})
    assert left.tasks == [second, third]
    scores = left.manifest.tasks[second].scores or {}
    assert {name: score.rebuilt for name, score in scores.items()} == {"one": 0.5, "two": 0.25}


def test_a_reader_of_a_store_that_was_changed(small: families.Family, tmp_path: Path) -> None:
    """It reads what it opened, until it closes that; then it is told so, and not of damage."""
    store = packed(small, tmp_path / "s", tiers="exact")
    first = store.tasks[0]
    remove(taskstore.open(store.path), [first])
    assert all(same(store.state_dict(first)[n], v) for n, v in small.tasks[first].items())
    store.unpack(first, tmp_path / "out")
    assert verify(store, deep=True).ok
    store.close()
    record(taskstore.open(store.path), "x", {store.tasks[1]: Score(rebuilt=1)})
    for read in (
        lambda: store.state_dict(first),
        lambda: store.unpack(first, tmp_path / "again"),
        lambda: verify(store),
        lambda: verify(store, deep=True),
    ):
        with pytest.raises(ChangedMeanwhile):
            read()


@pytest.mark.parametrize("number", [float("inf"), float("-inf"), float("nan"), 10**400])
def test_scores_that_are_not_finite(small: families.Family, tmp_path: Path, number: float) -> None:
    """Readers refuse such a manifest, so the store would be lost."""
    store = packed(small, tmp_path / "s", tiers="exact")
    before = contents(store.path)
    for score in (
        Score(rebuilt=number),
        Score(rebuilt=1, base=number),
        Score(rebuilt=1, original=number),
        Score(rebuilt=1, lower={"mask": number}),
    ):
        with pytest.raises(InputError, match="no finite number"):
            record(store, "x", {"alpha": score})
    assert contents(store.path) == before
    lam = msgspec.structs.replace(store.manifest.tasks["alpha"], lam=number)
    done = msgspec.structs.replace(store.manifest, tasks={"alpha": lam})
    if isinstance(number, float):
        with pytest.raises(InputError, match="not finite"):
            manifests.to_bytes(done)
