"""A driver that died leaves what its cluster has done; the next run with --resume takes it up."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import taskstore
from taskstore import AddOptions, MergeOptions
from taskstore.errors import ChangedMeanwhile, InputError, OutputError
from taskstore.packing.parts import units
from taskstore.packing.revise import retier
from tests.support import families
from tests.support.elsewhere import another_process
from tests.support.families import Family, contents, options
from tests.support.killing import Killer
from tests.test_on_cluster import data_of

Command = Callable[[Path], Any]  # run in a folder that has a store "s"; returns what it says


@pytest.fixture(autouse=True)
def small_units(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(units, "LEAST", 3000)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TASKSTORE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def rich(tmp_path_factory: pytest.TempPathFactory) -> Family:
    return Family(tmp_path_factory.mktemp("rich"), *families.rich_states())


@pytest.fixture(scope="module")
def archive(rich: Family, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("archive") / "s"
    chosen = options(tiers="exact", keep_private=True)
    taskstore.pack(rich.base_path, dict(list(rich.paths.items())[:2]), target, chosen)
    return target


@pytest.fixture
def command(request: pytest.FixtureRequest, rich: Family, tmp_path: Path) -> Command:
    name, path = list(rich.paths.items())[-1]
    script = tmp_path / "score.py"
    script.write_text("import sys; print(len(sys.argv[2]))")
    score = f"{sys.executable} {script} {{model}} {{task}}"
    merged = MergeOptions("ties", shard_bytes=4000, unrelated=True)
    joining = AddOptions(tiers="exact", keep_private=True)
    commands: dict[str, Command] = {
        "add": lambda at: taskstore.add(at / "s", {name: path}, joining).summary,
        "replace": lambda at: (
            taskstore.replace(at / "s", {taskstore.open(at / "s").tasks[0]: path}, joining).summary
        ),
        "repack": lambda at: (
            taskstore.add(
                at / "s", {name: path}, AddOptions(repack=True, keep_private=True)
            ).summary
        ),
        "retier": lambda at: retier(taskstore.open(at / "s"), options(tiers="rest"), at / "new"),
        "retier here": lambda at: retier(taskstore.open(at / "s"), options(tiers="exact")),
        "merge": lambda at: taskstore.merge(rich.base_path, rich.paths, at / "m", merged),
        "merge a store": lambda at: taskstore.merge(at / "s", None, at / "m", merged),
        "unpack": lambda at: taskstore.open(at / "s").unpack_all(at / "all") and None,
        "verify": lambda at: taskstore.verify(at / "s", deep=True),
        "eval": lambda at: taskstore.evaluate(taskstore.open(at / "s"), score).to_dict(),
    }
    chosen: Command = commands[request.param]
    return chosen


def every(*names: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("command", names, indirect=True)


ALL = (
    *("add", "replace", "repack", "retier", "retier here", "merge", "merge a store"),
    *("unpack", "verify", "eval"),
)
MAKING = ALL[:-2]


def folder(archive: Path, parent: Path) -> Path:
    parent.mkdir()
    shutil.copytree(archive, parent / "s")
    return parent


def data(at: Path) -> dict[str, bytes]:
    return {n: b for n, b in data_of(at).items() if not n.endswith(("taskstore.json", "README.md"))}


@every(*ALL)
def test_what_was_done_is_not_done_again(archive: Path, tmp_path: Path, command: Command) -> None:
    """Killed after 1 unit, then at the last one that is left; the bytes are those of one run."""
    at = folder(archive, tmp_path / "whole")
    with another_process() as other:
        said = command(at)
    total = len(other.did)
    at = folder(archive, tmp_path / "killed")
    with another_process(lives=1) as first, pytest.raises(KeyboardInterrupt):
        command(at)
    with another_process(resume=True, lives=total - 2) as second, pytest.raises(KeyboardInterrupt):
        command(at)
    with another_process(resume=True) as third:
        found = command(at)
    joins = {"join_file"}  # what is joined lies in the folder that dies with its driver
    did = [*first.did, *second.did, *third.did]
    assert len([d for d in did if d not in joins]) == len([d for d in other.did if d not in joins])
    assert data(at) == data(tmp_path / "whole")
    if not hasattr(found, "path"):
        assert found == said
    assert {p.name for p in at.iterdir()} == {p.name for p in (tmp_path / "whole").iterdir()}
    assert [*tmp_path.glob("cache/runs/*")] == []


@every(*MAKING)
def test_what_is_there_is_taken_up_only_when_asked(
    archive: Path, tmp_path: Path, command: Command
) -> None:
    at = folder(archive, tmp_path / "at")
    with another_process(lives=1), pytest.raises(KeyboardInterrupt):
        command(at)
    before = contents(at)
    with another_process() as other, pytest.raises(OutputError, match="--resume`., or remove it"):
        command(at)
    assert other.did == [] and contents(at) == before


@every("verify", "eval")
def test_who_only_judges_begins_anew(archive: Path, tmp_path: Path, command: Command) -> None:
    """And leaves nothing beside the store, which need not be writable."""
    at = folder(archive, tmp_path / "at")
    with another_process(lives=1), pytest.raises(KeyboardInterrupt):
        command(at)
    assert [p.name for p in at.iterdir()] == ["s"] and contents(at / "s") == contents(archive)
    with another_process() as other:
        command(at)
    with another_process() as again:
        command(at)
    assert other.did == again.did


def test_another_run_is_told(rich: Family, archive: Path, tmp_path: Path) -> None:
    at, name = folder(archive, tmp_path / "at"), [*rich.paths][-1]
    one, other = AddOptions(tiers="exact", keep_private=True), AddOptions(tiers="rest")
    with another_process(lives=1), pytest.raises(KeyboardInterrupt):
        taskstore.add(at / "s", {name: rich.paths[name]}, one)
    with another_process(resume=True), pytest.raises(InputError, match="another run, of add"):
        taskstore.add(at / "s", {name: rich.paths[name]}, other)
    with another_process(resume=True), pytest.raises(InputError, match="another run, of add"):
        retier(taskstore.open(at / "s"), options(tiers="rest"))


def test_work_for_a_store_that_has_changed_goes(
    rich: Family, archive: Path, tmp_path: Path
) -> None:
    at, name = folder(archive, tmp_path / "at"), [*rich.paths][-1]
    how = AddOptions(tiers="exact", keep_private=True)
    with another_process(lives=1), pytest.raises(KeyboardInterrupt):
        taskstore.add(at / "s", {name: rich.paths[name]}, how)
    taskstore.remove(at / "s", taskstore.open(at / "s").tasks[:1])
    with another_process():
        taskstore.add(at / "s", {name: rich.paths[name]}, how)
    assert [p.name for p in at.iterdir()] == ["s"]
    assert taskstore.verify(at / "s", deep=True).ok


def test_a_run_that_failed_before_its_first_unit_leaves_nothing(
    archive: Path, tmp_path: Path
) -> None:
    at = folder(archive, tmp_path / "at")
    with another_process(), pytest.raises(InputError):
        taskstore.add(at / "s", {"x": tmp_path / "nothing"}, AddOptions(tiers="exact"))
    assert [p.name for p in at.iterdir()] == ["s"]


def test_a_store_that_changed_meanwhile_keeps_no_work(
    rich: Family, archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from taskstore.packing import revise

    def changed(*_: Any) -> None:
        raise ChangedMeanwhile("it was changed")

    monkeypatch.setattr(revise, "commit", changed)
    at, name = folder(archive, tmp_path / "at"), [*rich.paths][-1]
    with another_process(), pytest.raises(ChangedMeanwhile):
        taskstore.add(at / "s", {name: rich.paths[name]}, AddOptions(tiers="exact"))
    assert [p.name for p in at.iterdir()] == ["s"]


@pytest.mark.slow
def test_killed_packs_of_several_workers(rich: Family, tmp_path: Path) -> None:
    """A kill leaves no store or a whole one, and what was begun ends with one machine's bytes.

    A command is killed before its third call that changes the disk, run again and killed before its
    fifteenth, and so on.
    """
    models = [rich.base_path, *(f"{name}={path}" for name, path in rich.paths.items())]
    how = ("--tiers", "rest,exact", "--keep-private")
    at, one, temporary = (tmp_path / name for name in ("at", "one", "t"))
    at.mkdir()
    temporary.mkdir()
    chosen = taskstore.PackOptions(tiers="rest,exact", keep_private=True)
    taskstore.pack(rich.base_path, rich.paths, one, chosen)
    part = ("pack", *models, *how, "--to", at / "jobs", "--part")
    commands: list[tuple[Path, tuple[object, ...]]] = [
        (at / "s", ("pack", *models, *how, "-o", at / "s", "--cluster", "auto", "--resume")),
        (at / "jobs", (*part, "1/2")),
        (at / "jobs", (*part, "2/2")),
        (at / "jobs", ("seal", at / "jobs")),
    ]
    kills = 0
    with Killer(temporary) as killer:
        for target, words in commands:
            for call in range(3, 400, 12):
                done = killer.run(*words, call=call)
                assert data(target) in ({}, data(one))
                if not done.killed or target.exists():  # it ended, or was killed as it tidied up
                    break
                kills += 1
            assert target.exists() or done.status == 0, done.said
    assert kills >= 8
    for target in (at / "s", at / "jobs"):
        assert data(target) == data(one) and taskstore.verify(target).ok
