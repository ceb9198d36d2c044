"""Pictures of a search: every point is in them, where it belongs."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from taskstore.errors import MissingExtra, TargetExists
from taskstore.merging import MergeReport
from taskstore.merging.search import plot
from taskstore.merging.search.outcome import Points, Searched
from taskstore.merging.search.scoring import Scores

REPORT = MergeReport(
    path=Path("out"), method="ties", options={}, alpha=1, weights={}, base="<b>base</b>",
    models=["one"], tensors=1, parameters=1, bytes=1, notes={},
)  # fmt: skip


def drawn(path: Path, axes: dict[str, tuple[float, ...]], scores: list[Scores],
          best: int, minimise: bool = False) -> Any:  # fmt: skip
    from itertools import product

    values = list(product(*axes.values()))
    plot.check(path, len(axes))
    plot.write(path, Searched(Points(axes, values, scores, best, minimise, "x"), REPORT))
    return json.loads(path.read_text()) if path.suffix == ".json" else path.read_text()


def test_a_line_per_task_and_their_mean(tmp_path: Path) -> None:
    scores = [Scores({"a": 1.0, "b<br>": 0.5}), Scores({"a": 0.25, "b<br>": 2.0})]
    figure = drawn(tmp_path / "x.json", {"alpha": (0.1, 0.7)}, scores, best=1)
    lines = {line["name"]: (line["x"], line["y"]) for line in figure["data"]}
    assert lines == {
        "a": ([0.1, 0.7], [1, 0.25]),
        "b&lt;br>": ([0.1, 0.7], [0.5, 2]),
        "mean score": ([0.1, 0.7], [0.75, 1.125]),
        "chosen: alpha 0.7": ([0.7], [1.125]),
    }
    layout = figure["layout"]
    assert layout["title"]["text"] == "ties: 1 fine-tune of &lt;b>base&lt;/b>"
    assert layout["xaxis"]["title"]["text"] == "alpha"
    assert layout["yaxis"]["title"]["text"] == "mean score"


def test_one_score_is_one_line(tmp_path: Path) -> None:
    figure = drawn(tmp_path / "x.json", {"k": (1, 2)}, [Scores({"": 3.0}), Scores({"": 4.0})], 0,
                   minimise=True)  # fmt: skip
    assert [line["name"] for line in figure["data"]] == ["loss", "chosen: k 1"]
    assert figure["layout"]["yaxis"]["title"]["text"] == "loss"


def test_two_grids_are_a_map(tmp_path: Path) -> None:
    """The score of (alpha, k) is 10 alpha + k: z has a row per k, a column per alpha."""
    axes = {"alpha": (1.0, 2.0, 3.0), "k": (4.0, 5.0)}
    scores = [Scores({"": 10 * alpha + k}) for alpha in axes["alpha"] for k in axes["k"]]
    grid, chosen = drawn(tmp_path / "x.json", axes, scores, best=5)["data"]
    assert (grid["x"], grid["y"]) == ([1, 2, 3], [4, 5])
    assert grid["z"] == [[14, 24, 34], [15, 25, 35]]
    assert (chosen["x"], chosen["y"]) == ([3], [5])


@pytest.mark.parametrize(
    "axes", [{"alpha": (0.125, 0.375)}, {"alpha": (0.125, 0.375), "k": (1.0,)}]
)
def test_a_page_needs_nothing_else(tmp_path: Path, axes: dict[str, tuple[float, ...]]) -> None:
    scores = [Scores({"": 0.0625}), Scores({"": 0.1875})]
    page = drawn(tmp_path / "x.html", axes, scores, best=0)
    assert all(text in page for text in ("0.125", "0.375", "0.0625", "0.1875", "chosen: alpha"))
    assert "<script src=" not in page
    assert "plotly.js v" in page


def test_plots_that_cannot_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.json").mkdir()
    with pytest.raises(TargetExists, match=r"x\.json exists already"):
        drawn(tmp_path / "x.json", {"k": (1,)}, [Scores({"": 3.0})], 0)
    monkeypatch.setitem(sys.modules, "plotly", None)
    plot.check(tmp_path / "y.json", 1)
    with pytest.raises(MissingExtra, match=r"needs plotly, the extra report: .*\[report\]"):
        plot.check(tmp_path / "y.html", 1)
