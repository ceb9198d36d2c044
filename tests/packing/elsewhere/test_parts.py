"""Packs of several machines whose only shared place is a bucket: the bytes of one machine."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest
from click.testing import CliRunner, Result
from taskstore_cli.main import main

import taskstore
from taskstore import AddOptions, MergeOptions
from taskstore.cluster import Cluster
from taskstore.errors import InputError, OptionError
from taskstore.format.names import CARD
from taskstore.locations.remote.addresses import Address
from taskstore.locations.remote.bucket import Bucket
from taskstore.packing.parts import driver, units
from taskstore.packing.parts.driver import pack_on, pack_part, seal
from tests.support.elsewhere import OtherProcess, another_process
from tests.support.families import Family, contents, options
from tests.support.seaweed import BUCKET, Seaweed

pytestmark = pytest.mark.xdist_group("s3")


@pytest.fixture(autouse=True)
def small_units(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(units, "LEAST", 3000)


@pytest.fixture
def where(s3: Seaweed, tmp_path: Path) -> str:
    return f"s3://{BUCKET}/parts/{tmp_path.name}"


def run(*words: object) -> Result:
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    return result


def digests(store: object) -> set[str]:
    files = taskstore.open(str(store)).manifest.files
    return {file.blake3 for path, file in files.items() if path != CARD}


def names(where: str) -> list[str]:
    return [*Bucket(Address("s3", BUCKET, where.split("/", 3)[3])).names()]


def test_an_array_of_jobs(small: Family, where: str, tmp_path: Path) -> None:
    models = [small.base_path, *(f"{name}={path}" for name, path in small.paths.items())]
    said = run("pack", *models, "--tiers", "rest", "--part", "2/2", "--to", where)
    assert "units of other parts are not done" in said.output and names(where) == []
    with pytest.raises(InputError, match="run part 1/2 again"):
        seal(where)
    run("pack", *models, "--tiers", "rest", "--part", "1/2", "--to", where)
    assert "asked" in names(f"{where}.parts")
    run("seal", where)
    run("pack", *models, "--tiers", "rest", "-o", tmp_path / "one")
    assert digests(where) == digests(tmp_path / "one")
    assert taskstore.verify(where, deep=True).ok and names(f"{where}.parts") == []
    with pytest.raises(InputError, match=f"no such parts: {where}.parts"):
        seal(where)


def test_a_cluster(
    small: Family, where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    *first, (name, path) = small.paths.items()
    chosen, other = options(method="ties"), OtherProcess()
    monkeypatch.setattr(driver, "connect", lambda address: cast(Cluster, other))
    pack_on("auto", small.base_path, dict(first), where, chosen)
    assert "code_part" in other.did and "join_file" not in other.did
    taskstore.pack(small.base_path, dict(first), tmp_path / "one", chosen)
    assert digests(where) == digests(tmp_path / "one") and names(f"{where}.parts") == []
    how = AddOptions(tiers="exact")
    taskstore.add(tmp_path / "one", {name: path}, how)
    with another_process() as other:
        taskstore.add(where, {name: path}, how)
        assert taskstore.verify(where, deep=True).ok
    assert {"code_part", "_proved_apart"} <= {*other.did}
    assert digests(where) == digests(tmp_path / "one") and names(f"{where}.parts") == []


def test_a_merge(small: Family, where: str, tmp_path: Path) -> None:
    """Killed after three of its units, and resumed; its parts lie in the bucket."""
    chosen = MergeOptions("ties", shard_bytes=4000, unrelated=True)
    taskstore.merge(small.base_path, small.paths, tmp_path / "one", chosen)
    with another_process(lives=3) as first, pytest.raises(KeyboardInterrupt):
        taskstore.merge(small.base_path, small.paths, where, chosen)
    assert names(where) == [] and "asked" in names(f"{where}.parts")
    with another_process(resume=True) as second:
        taskstore.merge(small.base_path, small.paths, where, chosen)
    made = Bucket(Address("s3", BUCKET, where.split("/", 3)[3]))
    assert {name: made.read(name, 1 << 20) for name in made.names()} == contents(tmp_path / "one")
    assert {*first.did, *second.did} == {"put_tensor"} and names(f"{where}.parts") == []


def test_parts_need_a_place(small: Family, s3: Seaweed) -> None:
    with pytest.raises(OptionError, match=f"name a prefix, as s3://{BUCKET}/family"):
        pack_part(small.base_path, small.paths, f"s3://{BUCKET}", 1, 2)
