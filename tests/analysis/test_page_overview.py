"""What the report says first: fidelity and accuracy, red where low; the tree, tiers, commands."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest

import taskstore
from taskstore.analysis.overlap import measure
from taskstore.analysis.page import overview
from taskstore.analysis.page.body import sections
from taskstore.analysis.page.facts import Facts, facts
from taskstore.format.manifest import Score
from taskstore.packing import revise
from tests.support import families
from tests.support.families import Family


def shown_of(store: Path) -> Facts:
    opened = taskstore.open(store)
    return facts(opened, measure(opened, vectors=True))


@pytest.fixture(scope="module")
def masks(small: Family, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("overview") / "s"
    options = families.options(tiers="mask,rest")
    taskstore.pack(small.base_path, small.paths, target, options)
    return target


def scored(store: Path, target: Path, **scores: Score) -> Facts:
    shutil.copytree(store, target)
    revise.record(taskstore.open(target), "accuracy", scores)
    return shown_of(target)


def first(shown: Facts) -> dict[str, tuple[str, bool]]:
    fidelity, accuracy = overview.tiles(shown)[:2]
    return {
        "fidelity": (fidelity.value, fidelity.is_bad),
        "accuracy": (accuracy.value, accuracy.is_bad),
    }


def test_without_scores_accuracy_is_not_measured(masks: Path) -> None:
    shown = shown_of(masks)
    assert first(shown)["accuracy"] == ("not measured", False)
    html = overview.tasks_table(shown)
    assert html.count("<td>not measured</td>") == 3
    assert "fine-tune's" not in html, "a column without content"
    assert "taskstore eval --record" in overview.explained(shown)


def test_the_worst_task_stands_in_the_tile(masks: Path, tmp_path: Path) -> None:
    good, bad = Score(rebuilt=0.98, original=1.0), Score(rebuilt=0.6, original=0.8)
    shown = scored(masks, tmp_path / "s", alpha=good, beta=bad)
    assert first(shown)["accuracy"] == ("75.0%", True)
    (tile,) = [tile for tile in overview.tiles(shown) if tile.is_bad and "accuracy" in tile.name]
    assert "beta is the worst, 2 of 3 tasks measured" in tile.name
    html = overview.tasks_table(shown)
    assert '<td class="bad number">75.0%</td>' in html
    assert '<td class="number">98.0%</td>' in html
    near = scored(masks, tmp_path / "t", alpha=Score(rebuilt=0.97, original=1.0))
    assert first(near)["accuracy"] == ("97.0%", False)


def test_scores_without_the_fine_tunes_are_shown_as_they_are(masks: Path, tmp_path: Path) -> None:
    scores = {"alpha": Score(rebuilt=0.5), "beta": Score(rebuilt=0.7, original=0.0)}
    assert first(scored(masks, tmp_path / "s", **scores))["accuracy"] == ("0.6", False)


def with_grades(shown: Facts, *grades: str | None) -> Facts:
    """The same facts with other grades; "exact" and None stand for themselves."""
    tasks = [dict(task) for task in shown["summary"]["tasks"]]
    for task, grade in zip(tasks, grades, strict=True):
        kind = "exact" if grade == "exact" else "approximate" if grade else "not measured"
        task["fidelity"] = {
            **task["fidelity"], "kind": kind, "grade": None if grade == "exact" else grade
        }  # fmt: skip
    return {**shown, "summary": {**shown["summary"], "tasks": tasks}}


@pytest.mark.parametrize(
    ("grades", "tile"),
    [
        (("exact", "exact", "exact"), ("exact", False)),
        (("exact", "A", "exact"), ("A", False)),
        (("B", "A", "exact"), ("B", False)),
        (("B", "C", "exact"), ("C", True)),
        (("B", "C", None), ("not measured", True)),
    ],
)
def test_the_worst_fidelity_stands_in_the_tile(
    masks: Path, grades: tuple[str | None, ...], tile: tuple[str, bool]
) -> None:
    shown = with_grades(shown_of(masks), *grades)
    assert first(shown)["fidelity"] == tile
    red = [grade not in ("exact", "A", "B") for grade in grades]
    assert overview.tasks_table(shown).count('class="bad"') == sum(red)


def test_among_tasks_of_one_grade_the_one_with_the_largest_error_is_the_worst(masks: Path) -> None:
    shown = with_grades(shown_of(masks), "A", "A", "A")
    for task, error in zip(shown["summary"]["tasks"], (0.01, 0.03, 0.02), strict=True):
        task["fidelity"]["error"] = error
    (tile,) = [tile for tile in overview.tiles(shown) if "fidelity" in tile.name]
    worst = shown["summary"]["tasks"][1]["name"]
    assert tile.name == f"fidelity of 3 tasks, {worst} is the worst"


def test_a_rest_without_a_mask_is_the_whole_step_from_the_base(masks: Path) -> None:
    shown = shown_of(masks)
    mask = next(tier for tier in shown["summary"]["tiers"] if tier["name"] == "mask")
    rest = {**mask, "name": "rest"}
    both = {**shown, "summary": {**shown["summary"], "tiers": [mask, rest]}}
    alone = {**shown, "summary": {**shown["summary"], "tiers": [rest]}}
    assert "what masks miss, quantised" in overview.tiers_table(both)
    html = overview.tiers_table(alone)
    assert "masks" not in html and "step from the base, quantised" in html


def test_an_archive_has_no_columns_of_masks(small: Family, tmp_path: Path) -> None:
    taskstore.pack(small.base_path, small.paths, tmp_path / "s", families.options(tiers="exact"))
    shown = shown_of(tmp_path / "s")
    assert first(shown)["fidelity"] == ("exact", False)
    columns = re.findall(r'scope="col">([^<]*)', overview.tasks_table(shown))
    assert not {"lambda", "density", "masks", "rest"} & set(columns)
    assert {"task", "score", "fidelity", "exact", "original"} <= set(columns)
    assert "taskstore serve" not in overview.commands(shown)


def depths(html: str) -> list[tuple[int, str]]:
    found = re.findall(r'--depth:(\d+)">([^ <]*)', html)
    return [(int(depth), name) for depth, name in found]


def test_the_tree_hangs_a_task_below_its_parent(masks: Path) -> None:
    shown = shown_of(masks)
    assert depths(overview.tree(shown)) == [(0, "base"), (1, "alpha"), (1, "beta"), (1, "gamma")]
    shown["parents"] = {"alpha": "gamma", "beta": None, "gamma": "elsewhere"}
    assert depths(overview.tree(shown)) == [(0, "base"), (1, "beta"), (1, "gamma"), (2, "alpha")]
    chain = {f"t{i}": f"t{i - 1}" if i else None for i in range(3000)}
    long: dict[str, Any] = {**shown, "parents": chain, "fidelity": dict.fromkeys(chain, ("exact",))}
    assert depths(overview.tree(long))[-1] == (3000, "t2999")


def test_tiers_have_bytes_and_live_memory(masks: Path) -> None:
    shown = shown_of(masks)
    html = overview.tiers_table(shown)
    assert re.findall(r'scope="row">([^<]*)', html) == ["mask", "rest"]
    assert "live memory" in html
    assert html.count(" kB</td>") == 4


def test_digests_are_those_of_the_weights(masks: Path, tmp_path: Path) -> None:
    from taskstore.executors import threads
    from taskstore.models import digest_of, open_checkpoint

    shown = shown_of(masks)
    taskstore.open(masks).unpack("beta", tmp_path / "beta")
    checkpoint = open_checkpoint(tmp_path / "beta")
    assert shown["digests"]["beta"] == digest_of(checkpoint, threads(1))
    (provenance,) = [section for section in sections(shown) if section.id == "provenance"]
    assert shown["digests"]["beta"] in provenance.html
    shown["changes"] = [("2025-01-02T03:04:05Z", "pack", "beta", "taskstore 0.1.0")]
    (provenance,) = [section for section in sections(shown) if section.id == "provenance"]
    assert "2025-01-02T03:04:05Z" in provenance.html


def test_commands_are_quoted_for_the_shell(masks: Path) -> None:
    shown = {**shown_of(masks), "store": "my store; rm"}
    assert "taskstore verify &#x27;my store; rm&#x27;" in overview.commands(shown)
    shown["store"] = "-x"
    assert "taskstore verify ./-x" in overview.commands(shown)


def test_the_diagonal_of_pairs_is_neutral(masks: Path) -> None:
    shown = shown_of(masks)
    charts = {chart.id: chart for section in sections(shown) for chart in section.charts}
    for id in ("jaccard", "contained", "cosines"):
        values, numbers, grey = charts[id].figure.data
        assert [values.z[i][i] for i in range(3)] == [None] * 3
        assert len(numbers.text) == 6
        assert [[x is None for x in row] for row in grey.z] == [
            [i != j for j in range(3)] for i in range(3)
        ]
    assert "lambdas" not in charts, "one lambda for all is in the table"


def test_one_task_has_no_pairs(small: Family, tmp_path: Path) -> None:
    one = {"alpha": small.paths["alpha"]}
    taskstore.pack(small.base_path, one, tmp_path / "s", families.options())
    charts = [
        chart.id for section in sections(shown_of(tmp_path / "s")) for chart in section.charts
    ]
    assert "norms" in charts
    assert not {"jaccard", "contained", "cosines", "lambdas"} & set(charts)
