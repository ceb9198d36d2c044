"""`pack --part` and `seal`: what they print, and what they refuse."""

from __future__ import annotations

import json
from pathlib import Path

from click.testing import CliRunner, Result
from taskstore_cli.main import main

from tests.support.families import Family, contents


def run(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


def test_parts_become_the_store_of_one_pack(small: Family, tmp_path: Path) -> None:
    models = [small.base_path, *(f"{name}={path}" for name, path in small.paths.items())]
    tiers = ["--tiers", "rest"]
    first = run("pack", *models, *tiers, "--part", "1/2", "--to", tmp_path / "s")
    assert first.exit_code == 0 and "part 1/2: 1 unit, 1 coded now" in first.output, first.output
    assert f"all parts are done: taskstore seal {tmp_path / 's'}" in " ".join(first.output.split())
    second = run("pack", *models, *tiers, "--part", "2/2", "--to", tmp_path / "s", "--json")
    said = json.loads(second.output)
    assert (said["part"], said["units"], said["missing"]) == ("2/2", 0, 0)
    sealed = run("seal", tmp_path / "s", "--json")
    assert sealed.exit_code == 0, sealed.output
    assert run("pack", *models, *tiers, "-o", tmp_path / "t").exit_code == 0
    assert contents(tmp_path / "s") == contents(tmp_path / "t")


def test_wrong_parts_are_wrong_usage(small: Family, tmp_path: Path) -> None:
    for part in ("0/2", "3/2", "1", "a/b"):
        said = run(
            "pack", small.base_path, *small.paths.values(), "-o", tmp_path / "s", "--part", part
        )
        assert said.exit_code == 2 and "is not I/N" in said.output
    lost = run("seal", tmp_path / "s")
    assert lost.exit_code == 1 and "no such parts" in lost.output
    assert list(tmp_path.iterdir()) == []
