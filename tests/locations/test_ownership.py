"""What taskstore did not write is never deleted, whichever command is told to overwrite it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import taskstore
from taskstore.errors import OutputError
from taskstore.format.manifest import Score
from taskstore.locations import ownership
from taskstore.merging import MergeOptions, merge
from taskstore.packing import revise
from taskstore.store.verify import verify
from tests.support.evaluators import run, script
from tests.support.families import Family, contents, options, random_state, save

Make = Callable[[Family, Path], object]


def exact(family: Family, store: Path) -> None:
    taskstore.pack(
        family.base_path, family.paths, store, options(tiers="exact", overwrite=store.exists())
    )


def approximate(family: Family, folder: Path) -> Path:
    store = folder.parent / "the store"
    if not store.exists():
        taskstore.pack(family.base_path, family.paths, store, options())
    return store


def command(name: str, *more: str) -> Make:
    """`pack`, `tune` and the like, of the family, with --overwrite."""

    def make(family: Family, target: Path) -> None:
        models = [f"{task}={path}" for task, path in family.paths.items()]
        words = [word.format(eval=script(target.parent, "print(0.5)")) for word in more]
        code, _, err = run(
            name, family.base_path, *models, "-o", target, "--overwrite", "-q", *words
        )
        if code:
            raise OutputError(err)

    return make


def merged(family: Family, target: Path) -> None:
    merge(family.base_path, family.paths, target, MergeOptions("sum", overwrite=True))


def unpacked(task: str | None) -> Make:
    def make(family: Family, target: Path) -> None:
        taskstore.open(approximate(family, target)).unpack(task, target, overwrite=True)

    return make


def all_unpacked(family: Family, target: Path) -> None:
    taskstore.open(approximate(family, target)).unpack_all(target, overwrite=True)


def as_it_was(family: Family, target: Path) -> None:
    store = target.parent / "exact"
    if not store.exists():
        exact(family, store)
    taskstore.open(store).unpack("alpha", target, overwrite=True)


MAKES: dict[str, Make] = {
    "pack": command("pack"),
    "pack exact": exact,
    "pack --max-error": command("pack", "--max-error", "0.9"),
    "pack --target": command("pack", "--target", "0.5", "--eval", "{eval}"),
    "tune": command("tune", "--eval", "{eval}"),
    "merge": merged,
    "merge --eval": command("merge", "--method", "sum", "--alpha", "0.1,0.2", "--eval", "{eval}"),
    "unpack": unpacked("alpha"),
    "unpack --base": unpacked(None),
    "unpack --all": all_unpacked,
    "unpack, as it was": as_it_was,
}


def add(name: str) -> Callable[[Path], str]:
    def spoil(target: Path) -> str:
        (target / name).parent.mkdir(exist_ok=True)
        (target / name).write_text("mine")
        return name

    return spoil


def linked(target: Path) -> str:
    (target / "notes.txt").symlink_to(target.parent)
    return "notes.txt"


def edited(target: Path) -> str:
    """A text of the folder, or of a model in it, is changed and keeps its length."""
    text = next(p for p in sorted(target.rglob("*")) if p.name in ("README.md", "config.json"))
    raw = text.read_bytes()
    text.write_bytes(raw[:-3] + bytes([raw[-3] ^ 1]) + raw[-2:])
    return text.relative_to(target).as_posix()


def trained_on(target: Path) -> str:
    weights = next(p for p in sorted(target.rglob("*.safetensors")))
    with weights.open("ab") as file:
        file.write(b"more")
    return weights.relative_to(target).as_posix()


SPOILS: dict[str, Callable[[Path], str]] = {
    "optimizer": add("optimizer.pt"),
    "notes": add("notes.md"),
    "hidden": add(".git/HEAD"),
    "a folder of weights": add("runs/model.safetensors"),
    "a link": linked,
    "a text that was edited": edited,
    "weights of another size": trained_on,
}


@pytest.mark.parametrize("make", MAKES)
def test_only_what_taskstore_wrote_is_replaced(small: Family, tmp_path: Path, make: str) -> None:
    """Each command replaces its own output, and refuses it with any other file in it."""
    whole, target = tmp_path / "whole", tmp_path / "target"
    MAKES[make](small, target)
    MAKES[make](small, target)
    shutil.copytree(target, whole)
    for what, spoil in SPOILS.items():
        shutil.rmtree(target)
        shutil.copytree(whole, target)
        name = spoil(target)
        before = contents(target)
        with pytest.raises(OutputError) as refused:
            MAKES[make](small, target)
        assert f"holds '{name}': not something" in str(refused.value), what
        assert contents(target) == before, what


def run_folder(family: Family, target: Path) -> None:
    save(target, family.tasks["alpha"])
    for name in ("optimizer.pt", "README.md", "taskstore.md"):
        (target / name).write_text("Merged by taskstore")


def two_models(family: Family, target: Path) -> None:
    for name in ("one", "two"):
        save(target / name, random_state(9))


def original(family: Family, target: Path) -> None:
    save(target, family.tasks["beta"], files={"tokenizer.json": "{}"})


def broken_store(family: Family, target: Path) -> None:
    target.mkdir()
    (target / "taskstore.json").write_text("{}")


def store_of_others(family: Family, target: Path) -> None:
    """A manifest alone makes no store: what lies beside it is not listed."""
    exact(family, target)
    (target / "README.md").write_text("# My thesis")


STRANGERS: dict[str, Make] = {
    "a training run": run_folder,
    "two models": two_models,
    "a model": original,
    "a broken store": broken_store,
    "a store with a text of its own": store_of_others,
}


@pytest.mark.parametrize("stranger", STRANGERS)
@pytest.mark.parametrize("make", MAKES)
def test_folders_of_others(small: Family, tmp_path: Path, make: str, stranger: str) -> None:
    target = tmp_path / "target"
    STRANGERS[stranger](small, target)
    before = contents(target)
    with pytest.raises(OutputError, match="never deleted"):
        MAKES[make](small, target)
    assert contents(target) == before


def test_an_original_that_the_store_holds_whole(small: Family, tmp_path: Path) -> None:
    """It comes back bit for bit, so nothing of it is lost."""
    target = shutil.copytree(small.paths["beta"], tmp_path / "target")
    as_it_was(small, target)
    assert contents(target) == contents(small.paths["alpha"])


CHANGES: dict[str, Callable[[taskstore.Store, Family], object]] = {
    "add": lambda s, f: revise.add(s, {"new": f.paths["gamma"]}),
    "remove": lambda s, f: taskstore.remove(s, ["beta"]),
    "retier": lambda s, f: revise.retier(s, options(tiers="mask")),
    "record": lambda s, f: revise.record(s, "x", {"beta": Score(rebuilt=1)}),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_is_not_a_stores_stays_beside_what_is_new(
    small: Family, tmp_path: Path, change: str
) -> None:
    two = {task: small.paths[task] for task in ("alpha", "beta")}
    taskstore.pack(small.base_path, two, tmp_path / "whole", options(tiers="exact"))
    for what in ("optimizer", "hidden", "a folder of weights", "a link", "a text that was edited"):
        target = Path(shutil.copytree(tmp_path / "whole", tmp_path / what))
        name = SPOILS[what](target)
        mine = (target / name).lstat()
        CHANGES[change](taskstore.open(target), small)
        there = (target / name).lstat()
        assert (there.st_ino, there.st_mtime_ns) == (mine.st_ino, mine.st_mtime_ns), what
        assert verify(taskstore.open(target), deep=True).ok, what


def test_assets_replace_no_file(packed: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("mine")
    with pytest.raises(OutputError, match=r"config\.json exists already"):
        taskstore.open(packed).write_assets("alpha", tmp_path)
    assert (tmp_path / "config.json").read_text() == "mine"


def test_what_comes_while_it_is_written(
    small: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder is looked at once more before it is replaced."""
    merged(small, tmp_path / "m")
    write = ownership.write_note

    def late(folder: Path) -> None:
        write(folder)
        (tmp_path / "m" / "optimizer.pt").write_text("mine")

    monkeypatch.setattr(ownership, "write_note", late)
    with pytest.raises(OutputError, match="holds 'optimizer.pt'"):
        merged(small, tmp_path / "m")
    assert (tmp_path / "m" / "optimizer.pt").read_text() == "mine"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m"]


def test_large_files_are_told_by_their_time(tmp_path: Path) -> None:
    folder, file = tmp_path, tmp_path / "w.safetensors"
    file.write_bytes(bytes(ownership.SMALL + 1))
    ownership.write_note(folder)
    assert ownership.foreign(folder, ownership.read_note(folder) or {}) == []
    changed = file.stat().st_mtime_ns
    os.utime(file, ns=(0, changed // 10**9 * 10**9))  # a file system of whole seconds
    assert ownership.foreign(folder, ownership.read_note(folder) or {}) == []
    os.utime(file, ns=(0, changed + 10**9))
    assert ownership.foreign(folder, ownership.read_note(folder) or {}) == ["w.safetensors"]


@pytest.mark.parametrize("note", ["", "{}", "[]", '{"written_by_taskstore": {"a": 1}}', "[" * 9999])
def test_a_note_that_is_none(tmp_path: Path, note: str) -> None:
    (tmp_path / ownership.NOTE).write_text(note)
    assert ownership.read_note(tmp_path) is None


def test_pages_and_plots(packed: Path, tmp_path: Path, small: Family) -> None:
    pytest.importorskip("plotly")
    evaluator = script(tmp_path, "print(0.5)")
    models = [f"{task}={path}" for task, path in small.paths.items()]
    merging = ("merge", small.base_path, *models, "--method", "sum", "--alpha", "0.1,0.2")
    makes: dict[str, Callable[[Path], tuple[int, str, str]]] = {
        "r.html": lambda p: run("report", packed, "-o", p, "-q", "--overwrite"),
        "p.html": lambda p: run(
            *merging, "--eval", evaluator, "--plot", p, "-o", tmp_path / "m", "-q", "--overwrite"
        ),
        "p.json": lambda p: run(
            *merging, "--eval", evaluator, "--plot", p, "-o", tmp_path / "m", "-q", "--overwrite"
        ),
    }
    for name, make in makes.items():
        path = tmp_path / name
        assert make(path)[0] == 0
        assert make(path) == (0, "", ""), "its own output"
        whole = path.read_bytes()
        for text in (b"my own", whole[:9] + b"?" + whole[10:], whole + b"\n", whole[:-1]):
            path.write_bytes(text)
            code, _, err = make(path)
            assert (code, path.read_bytes()) == (1, text)
            assert "not something that taskstore wrote" in err
        path.unlink()
        path.symlink_to(small.paths["alpha"] / "config.json")
        assert make(path)[0] == 1
        assert path.is_symlink()
    assert json.loads((small.paths["alpha"] / "config.json").read_text())
