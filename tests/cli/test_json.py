"""What --json prints is what schema.json says. `conftest.py` checks it in all other tests, too."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import taskstore_cli.output.console as console
from jsonschema import Draft202012Validator
from taskstore_cli.main import main

import taskstore
from tests.support.evaluators import run, script
from tests.support.families import Family
from tests.support.hub.faults import Hub
from tests.support.json_schema import check, document

WITH_JSON = sorted(
    name
    for name, command in main.commands.items()
    if any("--json" in parameter.opts for parameter in command.params)
)


@pytest.fixture(scope="module")
def archive(small: Family, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All tiers of all tasks."""
    target = tmp_path_factory.mktemp("json") / "archive"
    options = taskstore.PackOptions(tiers="mask,rest,exact")
    taskstore.pack(small.base_path, small.paths, target, options)
    return target


@pytest.fixture
def said(
    small: Family,
    archive: Path,
    packed: Path,
    tmp_path: Path,
    hub: Hub,
    monkeypatch: pytest.MonkeyPatch,
) -> dict[str, Any]:
    """Command lines by their name, without `taskstore` and `--json`."""
    monkeypatch.setenv("HF_TOKEN", "hf_of_ann")
    hub.repositories.upload("org/family", archive)
    changed = tmp_path / "changed"
    shutil.copytree(archive, changed)
    renamed = tmp_path / "renamed"
    shutil.copytree(archive, renamed)
    assert run("rename", renamed, "alpha", "other")[0] == 0
    evaluator = ("--eval", script(tmp_path, "print(json.dumps({'score': 0.5, 'n': 4}))"))
    models = [f"{name}={path}" for name, path in small.paths.items()]
    out, base = ("-o", tmp_path / "out"), small.base_path
    two = ("merge", base, *models[:2], *out)
    return {
        "pack": ("pack", base, *models, *out),
        "pack, bits searched": ("pack", base, *models, *out, "--max-error", "B"),
        "pack, scores kept": ("pack", base, models[0], *out, "--target", "0.9", *evaluator),
        "pack, nothing written": ("pack", base, *models, *out, "--dry-run"),
        "tune": ("tune", base, models[0], *out, *evaluator),
        "unpack": ("unpack", archive, "--all", *out),
        "export": ("export", archive, "alpha", "--ollama", *out),
        "unpack, the base": ("unpack", archive, "--base", *out),
        "load": ("load", archive, "alpha", "--time"),
        "load, not timed": ("load", packed, "alpha"),
        "add": ("add", changed, f"more={small.paths['alpha']}"),
        "remove": ("remove", changed, "alpha", "--yes"),
        "remove, nothing written": ("remove", changed, "alpha", "--dry-run"),
        "replace": ("replace", changed, f"alpha={small.paths['beta']}", "--yes"),
        "rename": ("rename", changed, "alpha", "other"),
        "copy": ("copy", archive, "alpha", *out),
        "push": ("push", archive, "ann/family"),
        "pull": ("pull", "org/family", "alpha", *out),
        "log": ("log", renamed),
        "gc": ("gc", changed),
        "repair": ("repair", changed, "--from", archive),
        "retier": ("retier", archive, "--tiers", "rest", *out),
        "info": ("info", archive),
        "info, masks": ("info", packed, "--overlap", "--vectors"),
        "verify": ("verify", archive, "--deep"),
        "eval": ("eval", changed, "--base", "--original", models[0], *evaluator),
        "eval, recorded": ("eval", changed, "alpha", "--record", "all", *evaluator),
        "eval, nothing run": ("eval", changed, "alpha", *evaluator, "--dry-run"),
        "report": ("report", packed, *out),
        "report, no masks": ("report", changed, *out),
        "report, two": ("report", packed, changed, *out),
        "merge": (*two, "--method", "ties"),
        "merge, searched": (*two, "--method", "sum", "--alpha", "0.1,0.2", *evaluator),
        "merge, a soup": (*two, "--method", "greedy_soup", *evaluator),
        "methods": ("methods",),
    }


COVERED = """add|copy|eval|eval, nothing run|eval, recorded|gc|info|info, masks|load|load, not timed
log|merge|merge, a soup|merge, searched|methods|pack|pack, bits searched|pack, nothing written
pack, scores kept|remove|remove, nothing written|rename|repair|replace|report|report, no masks
export|push|pull|report, two|retier|tune|unpack|unpack, the base|verify""".replace("\n", "|").split(
    "|"
)


def grown(printed: Any) -> Iterator[Any]:
    """Copies that have a member more: the object itself, and each object at a named place."""
    yield {**printed, "unknown": 1}
    for name in ("tasks", "tiers", "scores", "writes", "summary", "pack", "search", "soup"):
        copy = deepcopy(printed)
        at = copy.get(name)
        named = name in ("tasks", "scores") and isinstance(at, dict)  # any name may stand there
        at = at[0] if isinstance(at, list) and at else at
        if isinstance(at, dict) and not named:
            at["unknown"] = {}
            yield copy


@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # the hub's own calls
@pytest.mark.parametrize("name", COVERED)
def test_what_is_printed_is_what_the_schema_says(name: str, said: dict[str, Any]) -> None:
    assert sorted(said) == sorted(COVERED)
    code, out, err = run(*said[name], "--json")
    assert code == 0, err
    printed = json.loads(out)
    kind = "dry-run" if "--dry-run" in said[name] else said[name][0]
    assert printed["schema"] == f"{kind}/{console.SCHEMA}"
    check(printed)
    for more in grown(printed):
        with pytest.raises(AssertionError, match="unknown"):
            check(more)


@pytest.mark.parametrize("name", WITH_JSON)
def test_every_command_has_a_schema(name: str) -> None:
    assert name in document()["$defs"]


def test_the_schema_is_one() -> None:
    Draft202012Validator.check_schema(document())
    assert f"/{console.SCHEMA}$" in document()["$defs"]["version"]["pattern"]


def test_a_member_less_is_found() -> None:
    with pytest.raises(AssertionError, match="'ok' is a required property"):
        check({"schema": "verify/1"})
