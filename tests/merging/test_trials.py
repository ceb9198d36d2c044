"""Bad models are dropped after a part of the evaluation; several scores make a front."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from taskstore.errors import EvaluationFailed, OptionError
from taskstore.evaluation.journal import Journal
from taskstore.merging import MergeOptions
from taskstore.merging.search import cma_search
from taskstore.merging.search.front import OnFront, standing
from taskstore.merging.search.grid_search import search
from taskstore.merging.search.grids import Grids
from taskstore.merging.search.origins import Folders
from taskstore.merging.search.scoring import Scorer
from taskstore.merging.search.space import space
from taskstore.merging.search.trials import Plan, Tried, parts
from tests.support import families
from tests.support.evaluators import run, script
from tests.support.families import Family

ALPHAS = (0.0, 0.2, 0.3, 0.4, 0.6, 0.8, 1.0)


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Family:
    """Float32, so that a position can be read from the weights."""
    return families.family(tmp_path_factory.mktemp("wide"), 2, torch.float32)


def places(model: Path, family: Family) -> list[float]:
    """The weights of the task vectors in a sum."""
    name, base = "layers.1.mlp.weight", family.base
    state = load_file(model / "model.safetensors")[name] - base[name]
    taus = [(task[name] - base[name]).flatten() for task in family.tasks.values()]
    solved = torch.linalg.lstsq(torch.stack(taus, 1), state.flatten()[:, None]).solution
    return [round(float(x), 4) for x in solved[:, 0]]


def options(**changes: Any) -> MergeOptions:
    return MergeOptions("sum", **{"jobs": 2, "chunk": 512, **changes})


def test_bad_points_are_dropped(wide: Family, tmp_path: Path) -> None:
    """2, 6, then 18 examples: only what is among the best third up to there goes on."""
    calls: list[tuple[float, int]] = []

    def score(model: Path, _: str, limit: int) -> float:
        alpha = places(model, wide)[0]
        calls.append((alpha, limit))
        return -abs(alpha - 0.35) - (0.3 if limit == 2 and alpha == 0.4 else 0)

    journal, said = Journal(tmp_path / "journal"), list[str]()
    scorer = Scorer(score, journal, limit=18, say=said.append)  # type: ignore[arg-type]
    origin = Folders(wide.base_path, wide.paths)
    found = search(origin, tmp_path / "out", options(), Grids(ALPHAS), scorer)
    assert calls == [
        (0.0, 2), (0.0, 6), (0.0, 18), (0.2, 2), (0.2, 6), (0.2, 18), (0.3, 2), (0.3, 6),
        (0.3, 18), (0.4, 2), (0.6, 2), (0.8, 2), (1.0, 2),
    ]  # fmt: skip
    assert found.report.alpha == 0.3
    assert found.points.values == [(0.0,), (0.2,), (0.3,)]
    assert found.points.dropped["alpha 0.4"] == "-0.35 after 2 of 18 examples"
    assert list(found.to_dict()["search"]["dropped"]) == [f"alpha {a}" for a in (0.4, 0.6, 0.8)] + [
        "alpha 1"
    ]
    assert "Dropped, with the score up to there" in (tmp_path / "out" / "README.md").read_text()
    assert "alpha 0.4: dropped" in said
    search(origin, tmp_path / "again", options(), Grids(ALPHAS), scorer)
    assert len(calls) == 13


def test_parts_of_an_evaluation() -> None:
    assert parts(None) == (None,)
    assert [parts(n) for n in (1, 2, 3, 10, 900)] == [
        (1,), (1, 2), (1, 3), (2, 4, 10), (100, 300, 900)
    ]  # fmt: skip


def test_places_of_what_was_tried() -> None:
    """More of the evaluation first; then the rounds of fronts; then the room on a front."""
    tried = [
        Tried((), part, (), costs, "")
        for part, costs in [
            (1, (0.0, 4.0)), (1, (1.0, 2.0)), (1, (1.5, 1.0)), (1, (4.0, 0.0)),  # a front
            (1, (4.0, 4.0)),  # is dominated
            (0, (0.0, 0.0)),  # was dropped
            (-1, ()),  # failed
        ]
    ]  # fmt: skip
    found = standing(tried)
    assert found[0] == found[3] == 0  # its ends have all room
    assert 0 < found[2] < found[1] < found[4] < found[5] < found[6]  # 0.75 + 0.5 > 0.375 + 0.75
    assert standing([t._replace(costs=t.costs[:1]) for t in tried]) == [0, 1, 2, 3, 3, 4, 5]


def judges(family: Family, journal: Journal | None = None) -> list[Scorer]:
    """How near the weights are to (1.5, 0.5), and a loss: how far from (0.5, 0.5)."""

    def near(model: Path, _: str) -> float:
        x, y = places(model, family)
        if x > 1.5:
            raise EvaluationFailed("", "ended with status 9", "")
        return -((x - 1.5) ** 2) - (y - 0.5) ** 2

    def far(model: Path, _: str) -> float:
        x, y = places(model, family)
        return (x - 0.5) ** 2 + (y - 0.5) ** 2

    kept = journal or Journal(None)
    return [Scorer(near, kept, "a", "near"), Scorer(far, kept, "b", "far", minimise=True)]


def test_a_pareto_front(wide: Family, tmp_path: Path) -> None:
    """The front is the way between both aims; any point of it can be written, from the journal."""
    origin, journal = Folders(wide.base_path, wide.paths), Journal(tmp_path / "journal")
    box = space(options(alpha=1.0), Grids(), origin.names)

    def written(point: int | None, name: str) -> OnFront:
        own = judges(wide, Journal(tmp_path / "journal"))
        return cma_search.pareto(origin, tmp_path / name, box, own, Plan(60, 2), point)

    found = cma_search.pareto(origin, tmp_path / "out", box, judges(wide, journal), Plan(60, 2))
    front = found.front
    costs = np.array([(-near.mean, far.mean) for near, far in front.scores])
    worse = [((costs <= own).all(1) & (costs < own).any(1)).any() for own in costs]
    assert sorted(front.front) == [i for i, is_worse in enumerate(worse) if not is_worse]
    assert len(front.front) > 5
    assert (np.diff(costs[front.front][:, 0]) > 0).all()
    assert (np.diff(costs[front.front][:, 1]) < 0).all()
    assert np.abs(np.array([front.values[i] for i in front.front])[:, 1] - 0.5).max() < 0.4
    x, y = places(tmp_path / "out", wide)
    assert (x, y) == pytest.approx(front.values[front.best], abs=1e-3)
    assert 0.7 < x < 1.3
    assert front.failed
    lines = (tmp_path / "journal").read_text().splitlines()
    last = written(len(front.front), "last")
    assert (tmp_path / "journal").read_text().splitlines()[: len(lines)] == lines
    assert last.front.front == front.front
    assert last.front.best == front.front[-1]
    card = (tmp_path / "last" / "README.md").read_text()
    assert f"The Pareto front of {len(front.values)} models of CMA-ES" in card
    assert "| point | near | far (loss) | weight alpha | weight beta |" in card
    with pytest.raises(OptionError, match=r"the front has points 1 to .*, and point 61 is asked"):
        written(61, "none")
    assert sorted(os.listdir(tmp_path)) == ["journal", "last", "out"]


def test_the_command_draws_a_front(wide: Family, tmp_path: Path) -> None:
    """Two commands, one a loss; the front in the plot, in --json and in words."""
    command = script(tmp_path, "print(hash(open(model + '/README.md').read()) % 97 * int(task))")
    one, two = (command.replace("{task}", str(i)) for i in (1, 2))
    judges = ("--eval", f"good={one}", "--eval", f"bad={two}", "--loss", "bad")
    search = (*judges, "--search", "pareto", "--budget", 7)
    words = ("merge", wide.base_path, *wide.paths.values(), "--method", "sum", *search)
    plot = tmp_path / "front.json"
    code, shown, err = run(*words, "--plot", plot, "--json", "-o", tmp_path / "out")
    assert code == 0, err
    found = json.loads(shown)["pareto"]
    assert [(e["name"], e["minimise"]) for e in found["evaluators"]] == [
        ("good", False), ("bad", True)
    ]  # fmt: skip
    assert len(found["points"]) == 7
    dots, line, chosen = json.loads(plot.read_text())["data"]
    assert dots["y"] == [point["scores"]["bad"] for point in found["points"]]
    on = [point for point in found["points"] if point["point"]]
    assert sorted(line["x"]) == sorted(point["scores"]["good"] for point in on)
    assert chosen["x"] == [point["scores"]["good"] for point in found["points"] if point["chosen"]]
    code, shown, err = run(*words, "-o", tmp_path / "shown")
    assert code == 0, err
    assert "points of the Pareto front" in shown
    assert "drawn by CMA-ES (arXiv 1604.00772), seed 0" in shown


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--eval", "x {model}", "--search", "pareto"], "needs two --eval or more"),
        (["--eval", "x {model}", "--eval", "y {model}"], "2 --eval make a Pareto front"),
        (
            ["--eval", "a=x {model}", "--eval", "a=y {model}", "--search", "pareto"],
            "two --eval have one name: a, a",
        ),
        (
            ["--eval", "a=x {model}", "--eval", "y {model}", "--search", "pareto", "--loss", "b"],
            "--loss b is none of the scores, which are a, score 2",
        ),
        (["--eval", "x {model}", "--eval-limit", "9"], "--eval-limit needs {limit}"),
        (["--eval", "x {model} {limit}"], "--eval has {limit}, the number of examples"),
        (["--eval-limit", "9"], "--eval-limit does nothing without --eval"),
        (["--eval", "x {model}", "--point", "2"], "--point does nothing without --search pareto"),
        (
            ["--eval", "x {model}", "--search", "swarm", "--layers", "2"],
            "--layers does nothing without --search cma or pareto",
        ),
    ],
)
def test_errors_of_the_command(
    wide: Family, tmp_path: Path, words: list[str], message: str
) -> None:
    models = list(wide.paths.values())
    code, _, err = run(
        "merge", wide.base_path, *models, "--method", "sum", *words, "-o", tmp_path / "out"
    )
    assert code == 2
    assert message in err
    assert not os.listdir(tmp_path)


def test_a_model_that_overflows_counts_as_worst(tmp_path: Path) -> None:
    """With alpha 1e6 no weight fits into float16; the search goes on, and lists the model."""
    half = families.family(tmp_path / "half", 2, torch.float16)
    scorer = Scorer(lambda model, _: float(model.exists()), scratch=tmp_path)
    origin = Folders(half.base_path, half.paths)
    found = search(origin, tmp_path / "out", options(), Grids((0.5, 1e6, 1.0)), scorer)
    assert found.points.values == [(0.5,), (1.0,)]
    assert list(found.points.failed) == ["alpha 1e+06"]
    assert "overflows F16" in found.points.failed["alpha 1e+06"]
    assert "overflows F16" in (tmp_path / "out" / "README.md").read_text()
