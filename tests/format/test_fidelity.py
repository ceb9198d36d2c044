"""What a store says it keeps: the figures, the grades, the words, and what a reader refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import taskstore
from taskstore.errors import FormatError
from taskstore.format.fidelity import Fidelity, grade_of, of_sums, of_task
from taskstore.format.manifest import Sums
from tests.support import families, forge
from tests.support.families import Family


def sums(error: float, weights: float, vector: float, product: float) -> Sums:
    return Sums(error=error, weights=weights, vector=vector, product=product)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        # |e| / |w| = 0.009, <tau, tau^> = |tau|^2
        (sums(0.0081, 100, 1, 1), "approximate, A: weight error 0.90 %, projection 1.00"),
        # 0.02 + 0.2 * 0.1 = 0.04
        (sums(0.04, 100, 2, 1.8), "approximate, B: weight error 2.0 %, projection 0.90"),
        # 0.02 + 0.2 * 0.5 = 0.12
        (sums(0.04, 100, 2, 1), "approximate, C: weight error 2.0 %, projection 0.50"),
        (sums(16, 100, 16, 0), "approximate, C: weight error 40 %, projection 0.00"),
        (sums(4, 100, 16, 24), "approximate, C: weight error 20 %, projection 1.50"),
        (sums(0, 100, 16, 16), "approximate, A: weight error 0 %, projection 1.00"),
        (sums(1e-8, 100, 16, 16), "approximate, A: weight error 0.0010 %, projection 1.00"),
    ],
)
def test_the_figures(given: Sums, words: str) -> None:
    assert of_sums(given).words == words


def test_the_grades_end_where_they_say() -> None:
    assert [grade_of(x) for x in (0.0, 0.030, 0.0301, 0.055, 0.0551, 9.0)] == list("AABBCC")
    assert [Fidelity("approximate", g).is_safe for g in "ABC"] == [True, True, False]
    assert (Fidelity("exact").is_safe, Fidelity("not measured").is_safe) == (True, False)


def test_a_task_without_a_vector_misses_nothing() -> None:
    found = of_sums(sums(0, 100, 0, 0))
    assert (found.weight_error, found.projection, found.grade) == (0.0, 1.0, "A")


def test_every_figure_is_a_number_in_json() -> None:
    for given in (sums(1, 0, 0, 0), sums(1e300, 1e-300, 1e-300, -1e300)):
        found = of_sums(given)
        assert found.grade == "C"
        json.dumps([found.error, found.projection], allow_nan=False)


def test_the_words_without_figures() -> None:
    assert Fidelity("exact").words == "exact"
    assert Fidelity("not measured").words == "approximate, not measured"


def test_an_older_store_does_not_know(small: Family, tmp_path: Path) -> None:
    taskstore.pack(small.base_path, small.paths, tmp_path / "s", families.options())
    forge.make_older(tmp_path / "s", 1)
    manifest = taskstore.open(tmp_path / "s").manifest
    assert manifest.version == 1
    assert {of_task(task).kind for task in manifest.tasks.values()} == {"not measured"}


CASES: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "older": (lambda f: f["version"](3), "has fidelity, in a store of version 3"),
    "empty": (lambda f: f["tiers"].clear(), "has the fidelity of no tier"),
    "exact": (lambda f: f["tiers"].update(exact=f["tiers"]["mask"]), "of mask, exact"),
    "absent": (lambda f: f["tiers"].update(rest=f["tiers"]["mask"]), "of mask, rest"),
    "negative": (lambda f: f["tiers"]["mask"].update(error=-1.0), "no sum of squares"),
    "endless": (lambda f: f["tiers"]["mask"].update(vector=1e999), "of mask|not valid JSON"),
    "a part": (lambda f: f["tiers"]["mask"].pop("product"), "missing required field"),
    "more": (lambda f: f["tiers"]["mask"].update(more=1.0), "unknown field"),
}


@pytest.mark.parametrize("name", CASES)
def test_refused(name: str, small: Family, tmp_path: Path) -> None:
    change, message = CASES[name]
    taskstore.pack(
        small.base_path, small.paths, tmp_path / "s", families.options(tiers="mask,exact")
    )

    def edit(document: dict[str, Any]) -> None:
        change(
            {
                "version": lambda v: document.update(version=v),
                "tiers": document["tasks"]["alpha"]["fidelity"],
            }
        )

    forge.edit(tmp_path / "s", edit)
    with pytest.raises(FormatError, match=message):
        taskstore.open(tmp_path / "s")


def test_every_tier_has_its_own(small: Family, tmp_path: Path) -> None:
    taskstore.pack(
        small.base_path, small.paths, tmp_path / "s", families.options(tiers="mask,rest,exact")
    )
    store = taskstore.open(tmp_path / "s")
    for task in store.summary().tasks:
        assert list(task.lower_fidelity) == ["mask", "rest"]
        mask, rest = task.lower_fidelity.values()
        assert mask.error > rest.error  # type: ignore[operator]
        assert store.fidelity(task.name, "mask") == mask
        assert store.fidelity(task.name) == task.fidelity == Fidelity("exact")
    assert store.fidelity(None).kind == "exact"
