"""`remove` and `replace` name what would be lost for good, and ask before they delete that."""

from __future__ import annotations

import json
import os
import pty
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import taskstore
from tests.support import families, forge
from tests.support.evaluators import run
from tests.support.families import contents


@pytest.fixture
def store(packed: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(packed, tmp_path / "store"))


def answered(store: Path, answer: str) -> int:
    """Run it in a terminal, and type an answer."""
    master, terminal = pty.openpty()
    os.write(master, answer.encode())
    command = [sys.executable, "-m", "taskstore_cli", "remove", str(store), "beta"]
    done = subprocess.run(command, stdin=terminal, capture_output=True, text=True, check=False)
    os.close(terminal)
    os.close(master)
    assert f"beta ({taskstore.open(store).fidelity('alpha').kind}" in done.stderr
    return done.returncode


def test_without_a_terminal_it_is_refused(store: Path) -> None:
    before, words = contents(store), taskstore.open(store).fidelity("beta").words
    code, out, err = run("remove", store, "beta", "--json")
    assert (code, out) == (2, "")
    assert f"this deletes beta ({words}), of which no other copy is known; add --yes" in err
    assert contents(store) == before
    assert run("remove", store, "beta", "--yes", "-q") == (0, "", "")
    assert taskstore.open(store).tasks == ["alpha", "gamma"]


def test_in_a_terminal_it_asks(store: Path) -> None:
    before = contents(store)
    assert answered(store, "n\n") == 1
    assert contents(store) == before
    assert answered(store, "y\n") == 0
    assert taskstore.open(store).tasks == ["alpha", "gamma"]


def test_a_dry_run_changes_nothing(store: Path) -> None:
    before, found = contents(store), taskstore.open(store).fidelity("beta")
    code, out, _ = run("remove", store, "beta", "gamma", "--dry-run")
    assert code == 0
    assert f"would remove beta ({found.words}), of which no other copy is known" in out
    code, out, _ = run("remove", store, "beta", "--dry-run", "--json")
    assert json.loads(out)["would_lose"]["beta"]["words"] == found.words
    assert run("remove", store, "delta", "--dry-run")[0] == 1
    assert contents(store) == before


def test_what_came_from_a_hub_is_still_there(store: Path) -> None:
    forge.edit(store, lambda d: d["tasks"]["beta"].update(source="org/beta", revision="ab" * 20))
    assert (
        "beta, whose fine-tune is on a hub, or beside the store"
        in run("remove", store, "beta", "--dry-run")[1]
    )
    assert run("remove", store, "beta", "-q") == (0, "", "")


def test_an_exact_task_beside_its_original_is_not_asked_for(tmp_path: Path) -> None:
    family = families.family(tmp_path, 2)
    target = tmp_path / "store"
    taskstore.pack(family.base_path, family.paths, target, taskstore.PackOptions(tiers="exact"))
    weights = family.paths["beta"] / "model.safetensors"
    as_it_was = weights.read_bytes()
    for changed in (as_it_was[:-1] + bytes([as_it_was[-1] ^ 1]), as_it_was[:-1], None):
        weights.unlink() if changed is None else weights.write_bytes(changed)
        assert run("remove", target, "beta")[0] == 2
    weights.write_bytes(as_it_was)
    assert run("remove", target, "beta", "-q") == (0, "", "")
    assert taskstore.open(target).tasks == ["alpha"]


def test_replace_asks_for_an_original_that_only_the_store_holds(
    small: families.Family, store: Path, tmp_path: Path
) -> None:
    archive, new = tmp_path / "archive", f"beta={small.paths['gamma']}"
    taskstore.pack(
        small.base_path, small.paths, archive, taskstore.PackOptions(tiers="exact", jobs=1)
    )
    before = contents(archive)
    code, out, err = run("replace", archive, new)
    assert (code, out) == (2, "")
    assert "this deletes beta (exact), of which no other copy is known; add --yes" in err
    assert run("replace", archive, new, "--dry-run")[0] == 0
    assert contents(archive) == before
    assert run("replace", archive, new, "--yes", "-q")[0] == 0
    assert run("replace", store, new, "-q")[0] == 0, "an approximation is not asked for"


def test_an_archive_is_overwritten_after_a_question_alone(
    small: families.Family, tmp_path: Path
) -> None:
    """Where the exact tasks that go are neither what is packed, nor in the store that is read."""
    archive, other = tmp_path / "archive", tmp_path / "other"
    alpha, beta = (f"{name}={small.paths[name]}" for name in ("alpha", "beta"))
    exact = ("--tiers", "exact", "-q", "-o")
    assert run("pack", small.base_path, alpha, beta, *exact, archive)[0] == 0
    assert run("pack", small.base_path, alpha, beta, *exact, archive, "--overwrite")[0] == 0
    assert run("copy", archive, "alpha", "beta", "-q", "-o", other)[0] == 0
    before = contents(other)
    only_alpha = ("pack", small.base_path, alpha, "--overwrite", *exact, archive)
    code, out, err = run(*only_alpha)
    assert (code, out) == (2, "")
    assert "this deletes beta (exact), of which no other copy is known; add --yes" in err
    code, out, _ = run(*(word for word in only_alpha if word != "-q"), "--dry-run")
    assert code == 0 and "would delete beta (exact), of which no other copy is known" in out
    assert run("copy", other, "beta", "-q", "-o", archive, "--overwrite")[0] == 0, "it has alpha"
    assert run("copy", archive, "beta", "-q", "-o", other, "--overwrite")[0] == 2
    assert run("pack", small.base_path, alpha, *exact, tmp_path / "new", "--yes")[0] == 2
    assert contents(other) == before
    assert run("pack", small.base_path, alpha, "--overwrite", "--yes", *exact, other)[0] == 0
    assert taskstore.open(other).tasks == ["alpha"]
