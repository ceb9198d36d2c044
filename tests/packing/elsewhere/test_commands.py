"""Commands that are given addresses: they work there, or say what to do, and leave nothing."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from taskstore_cli.main import main

import taskstore
from taskstore.locations.remote.addresses import Address
from taskstore.locations.remote.bucket import Bucket
from tests.support.families import Family
from tests.support.hub.faults import Hub
from tests.support.seaweed import BUCKET, Seaweed

pytestmark = pytest.mark.xdist_group("s3")


@pytest.fixture
def where(s3: Seaweed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    return f"s3://{BUCKET}/commands/{tmp_path.name}"


def run(*words: object, status: int = 0) -> Result:
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exit_code == status, result.output
    return result


def names(where: str) -> set[str]:
    return {*Bucket(Address("s3", BUCKET, where.split("/", 3)[3])).names()}


def family(small: Family) -> list[object]:
    return [small.base_path, *(f"{name}={path}" for name, path in small.paths.items())]


@pytest.mark.parametrize(
    ("words", "way_out"),
    [
        (["repair", "STORE"], "repair that folder, and `taskstore copy` it to a new address"),
        (["copy", "STORE"], "say where to copy it"),
    ],
)
def test_what_is_for_folders_says_so(
    small: Family, where: str, words: list[str], way_out: str, tmp_path: Path
) -> None:
    stand: dict[str, list[object]] = {"MODELS": family(small), "STORE": [where]}
    found = run(*(part for word in words for part in (stand.get(word) or [word])), status=2)
    assert way_out in found.output
    assert names(where) == set() and not [*tmp_path.iterdir()]


@pytest.mark.parametrize("how", [["tune"], ["pack", "--target", "0.9"]], ids=" ".join)
def test_a_search_writes_into_a_bucket(
    small: Family, where: str, how: list[str], tmp_path: Path
) -> None:
    """What is remembered meanwhile lies on this machine, and not in the current folder."""
    command, *options = how
    (tmp_path / "score.py").write_text("import json; print(json.dumps({'score': 1}))")
    score = f"{sys.executable} {tmp_path / 'score.py'} {{model}}"
    run(command, *family(small), "-o", where, *options, "--eval", score)
    assert taskstore.verify(where).ok
    assert taskstore.open(where).tasks == [*small.paths]
    assert [path.name for path in tmp_path.iterdir()] == ["score.py"]
    run(command, *family(small), "-o", where, *options, "--eval", score, status=1)


def test_a_merge_replaces_no_model_of_a_bucket(small: Family, where: str) -> None:
    words = ["merge", *[small.base_path, *small.paths.values()], "--method", "average", "-o", where]
    run(*words)
    before = names(where)
    found = run(*words, "--overwrite", status=1)
    assert "holds files already; name another prefix" in found.output
    assert names(where) == before


def test_serve_hands_the_address_on(small: Family, where: str) -> None:
    run("pack", *family(small), "-o", where, "--tiers", "rest", "-q")
    found = run("serve", where, "--print-command")
    assert f'"store": "{where}"' in found.output


def test_copy_from_a_repository_and_to_one(
    small: Family, where: str, hub: Hub, tmp_path: Path
) -> None:
    first = next(iter(small.paths))
    run("pack", *family(small), "-o", "s", "--tiers", "exact", "-q")
    hub.repositories.upload("org/family", tmp_path / "s")
    run("copy", "hf://org/family", "here", first, "-q")
    run("copy", "hf://org/family", "-o", where, "-q")
    assert taskstore.open("here").tasks == [first]
    assert taskstore.verify("here").ok and taskstore.verify(where).ok
    found = run("copy", where, "-o", "hf://org/other", status=2)
    assert "is written by `taskstore push`" in found.output
