"""Two stores of one family on one page; of two bases: refused."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner
from taskstore_cli.main import main

import taskstore
from taskstore.analysis.page import compare, write_page
from taskstore.errors import InputError
from taskstore.format.manifest import Score
from taskstore.packing import revise
from tests.support import families
from tests.support.families import Family


@pytest.fixture(scope="module")
def two(small: Family, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Masks of alpha and beta, scored; rests of beta and gamma."""
    root = tmp_path_factory.mktemp("two")
    a, b = root / "masks", root / "rests"
    for target, tiers, names in ((a, "mask", "alpha beta"), (b, "mask,rest", "beta gamma")):
        paths = {name: small.paths[name] for name in names.split()}
        taskstore.pack(small.base_path, paths, target, families.options(tiers=tiers))
    revise.record(taskstore.open(a), "accuracy", {"beta": Score(rebuilt=0.5, original=0.8)})
    return a, b


def test_both_stand_side_by_side(two: tuple[Path, Path], tmp_path: Path) -> None:
    a, b = two
    page = write_page(a, tmp_path / "r.html", other=b)
    shown = page.facts
    assert json.loads(json.dumps(shown))["stores"].keys() == {"A", "B"}
    found = {section.id: section for section in compare.sections(shown)}
    assert list(found) == ["tasks", "accuracy", "size", "tiers"]
    rows = re.findall(r"<tr><th scope=\"row\">(\w+)</th>(.*?)</tr>", found["tasks"].html)
    assert [name for name, _ in rows] == ["alpha", "beta", "gamma"]
    assert [cells.count("not in it") for _, cells in rows] == [1, 0, 1]
    assert "Tasks: 2 in A, 2 in B, 1 in both." in found["tasks"].intro
    (chart,) = found["accuracy"].charts
    assert {trace.name: trace.x for trace in chart.figure.data} == {
        "A": (0.5,),
        "fine-tune": (0.8,),
    }
    (sizes,) = found["size"].charts
    for number, store in enumerate(two):
        total = taskstore.open(store).summary().store_bytes
        assert sum(trace.x[number] for trace in sizes.figure.data) == total
    assert found["tiers"].html.count('scope="row">mask') == 2
    assert found["tiers"].html.count('scope="row">rest') == 1
    values = [tile.value for tile in compare.tiles(shown)]
    assert values[2:4] == ["62.5%", "not measured"]
    html = (tmp_path / "r.html").read_text()
    assert "masks and rests" in html and "A is masks, B is rests" in html


def test_two_bases_are_refused(two: tuple[Path, Path], tmp_path: Path) -> None:
    base = families.random_state(7)
    other = Family(tmp_path, base, {"alpha": families.tuned(base, 1)})
    taskstore.pack(other.base_path, other.paths, tmp_path / "other", families.options())
    target = tmp_path / "r.html"
    with pytest.raises(InputError, match=r"stores of two bases .* tensors differ, .* is the first"):
        write_page(two[0], target, other=tmp_path / "other")
    done = CliRunner().invoke(
        main, ["report", str(two[0]), str(tmp_path / "other"), "-o", str(target)]
    )
    assert (done.exit_code, done.stderr.count("\n")) == (1, 1)
    assert not target.exists()
    small = {name: base[name] for name in list(base)[:-1]}
    fewer = Family(tmp_path / "fewer", small, {"alpha": families.tuned(small, 1)})
    taskstore.pack(fewer.base_path, fewer.paths, tmp_path / "less", families.options())
    with pytest.raises(InputError, match="only one of them has tensor"):
        write_page(two[0], target, other=tmp_path / "less")


def test_the_command(two: tuple[Path, Path], tmp_path: Path) -> None:
    words = ["report", *map(str, two), "-o", str(tmp_path / "r.html"), "--json"]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert [one["store"] for one in told["stores"].values()] == ["masks", "rests"]
