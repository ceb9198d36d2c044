"""A folder whose writer was killed between two renames: whatever looks for it puts it back."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import pytest

import taskstore
from tests.support import families
from tests.support.evaluators import run
from tests.support.families import contents, options

EVAL = ["--eval", "sh -c 'echo 0.5' {model} {task}"]
STORE = {
    "info": ["info", "STORE"],
    "verify": ["verify", "STORE", "--deep"],
    "unpack": ["unpack", "STORE", "alpha", "-o", "OUT"],
    "export": ["export", "STORE", "alpha", "-o", "OUT", "--ollama"],
    "eval": ["eval", "STORE", "alpha", *EVAL],
    "eval --record": ["eval", "STORE", "alpha", "--record", "mine", *EVAL],
    "report": ["report", "STORE", "-o", "OUT.html"],
    "merge": ["merge", "STORE", "-o", "OUT", "--method", "average"],
    "add": ["add", "STORE", "new=MODEL"],
    "remove": ["remove", "STORE", "alpha", "--yes"],
    "retier": ["retier", "STORE", "--tiers", "mask", "-o", "OUT"],
    "pack over": ["pack", "BASE", "MODEL", "-o", "STORE", "--overwrite", "--yes"],
}
MODEL = {
    "pack": ["pack", "BASE", "new=MODEL", "-o", "OUT"],
    "merge": ["merge", "BASE", "one=MODEL", "two=OTHER", "-o", "OUT", "--method", "average"],
    "eval --original": ["eval", "STORE", "alpha", "--original", "alpha=MODEL", *EVAL],
    "base": ["pack", "MODEL", "new=OTHER", "-o", "OUT"],
}


@pytest.fixture(scope="module")
def made(small: families.Family, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("made")
    taskstore.pack(small.base_path, small.paths, root / "store", options(tiers="exact"))
    shutil.copytree(small.paths["alpha"], root / "model")
    return root


@pytest.fixture
def here(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made, tmp_path / "here")


def ran(words: list[str], here: Path, family: families.Family) -> None:
    places = {
        "STORE": here / "store",
        "MODEL": here / "model",
        "OUT": here / "out",
        "OUT.html": here / "out.html",
        "BASE": family.base_path,
        "OTHER": family.paths["beta"],
    }
    line = []
    for word in words:
        name, equals, place = word.rpartition("=")
        line.append(f"{name}{equals}{places[place]}" if place in places else word)
    status, _, err = run(*line)
    assert status == 0, err


def aside(folder: Path) -> None:
    os.rename(folder, folder.with_name(f".{folder.name}.replaced"))


@pytest.mark.parametrize("name", STORE)
def test_a_store(name: str, here: Path, small: families.Family) -> None:
    aside(here / "store")
    ran(STORE[name], here, small)
    assert taskstore.open(here / "store").tasks
    assert not [path for path in here.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("name", MODEL)
def test_a_model(name: str, here: Path, small: families.Family) -> None:
    aside(here / "model")
    ran(MODEL[name], here, small)
    assert contents(here / "model") == contents(small.paths["alpha"])


def test_a_pack_never_deletes_the_only_copy(here: Path, small: families.Family) -> None:
    aside(here / "store")
    words = ["pack", small.base_path, small.paths["alpha"], "-o", here / "store"]
    status, _, err = run(*words)
    assert status == 1
    assert "exists already" in err
    assert taskstore.open(here / "store").tasks == sorted(small.paths)


@pytest.mark.parametrize("name", STORE)
def test_no_temporary_folder(
    name: str, here: Path, small: families.Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(here / "nowhere"))
    ran(STORE[name], here, small)
