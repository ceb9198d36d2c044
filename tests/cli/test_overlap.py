"""`taskstore report` and `taskstore info --overlap`, as a user runs them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from taskstore_cli.main import main
from taskstore_cli.output.overlap import print_overlap

import taskstore
from taskstore.analysis.overlap import measure
from tests.support import families, forge
from tests.support.families import Family
from tests.support.overlaps import wide


def run(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


def test_a_failure_leaves_nothing(packed: Path, tmp_path: Path) -> None:
    store = Path(shutil.copytree(packed, tmp_path / "s"))

    def one_more(document: forge.Document) -> None:
        document["tasks"]["alpha"]["tensors"]["embed_tokens.weight"]["ones"] += 1

    forge.edit(store, one_more)
    done = run("report", store, "-o", tmp_path / "r.html")
    assert done.exit_code == 1
    assert "the manifest records" in done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["s"]


def test_the_command(packed: Path, tmp_path: Path) -> None:
    done = run("report", packed, "-o", tmp_path / "r.html", "--no-vectors")
    assert done.exit_code == 0, done.output
    assert done.output.startswith(f"{packed} -> {tmp_path / 'r.html'} (")
    again = run("report", packed, "-o", tmp_path / "r.html")
    assert again.exit_code == 1 and "exists already" in again.stderr
    said = json.loads(
        run("report", packed, "-o", tmp_path / "r.html", "--overwrite", "--json").stdout
    )
    assert said["bytes"] == (tmp_path / "r.html").stat().st_size
    assert said["vectors"]["tasks"] == ["alpha", "beta", "gamma"]
    quiet = run("report", packed, "-o", tmp_path / "q.html", "--no-vectors", "-q")
    assert (quiet.exit_code, quiet.output) == (0, "")


def test_info_shows_the_overlap(packed: Path, small: Family, tmp_path: Path) -> None:
    plain = json.loads(run("info", packed, "--json").stdout)
    found = json.loads(run("info", packed, "--overlap", "--json").stdout)
    assert {k: v for k, v in found.items() if k != "overlap"} == plain
    assert found["overlap"] == json.loads(json.dumps(measure(taskstore.open(packed)).to_dict()))
    text = run("info", packed, "--vectors").output
    for words in ("live weights by the number of tasks", "Jaccard", "cosine of two", "all 3"):
        assert words in text
    taskstore.pack(small.base_path, small.paths, tmp_path / "s", families.options(tiers="rest"))
    assert "no task of this store has masks" in run("info", tmp_path / "s", "--overlap").output


def test_info_of_many_tasks_lists_the_nearest(
    packed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    print_overlap(wide(12, 2, 2))
    text = capsys.readouterr().out
    assert "nearest" in text and "farthest" in text
