"""CMA-ES over a merge: it finds what is best, goes on where it was, and lives with failures."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from taskstore.errors import EvaluationFailed, MissingExtra, OptionError
from taskstore.evaluation.journal import Journal
from taskstore.merging import MergeOptions, merge
from taskstore.merging.search.cma_search import search
from taskstore.merging.search.grids import Grids
from taskstore.merging.search.origins import Folders
from taskstore.merging.search.outcome import Searched
from taskstore.merging.search.scoring import Scorer
from taskstore.merging.search.space import space
from taskstore.merging.search.trials import Plan
from tests.support import families
from tests.support.evaluators import run, script
from tests.support.families import Family, same

WANTED = {"alpha": 1.4, "beta": 0.3, "gamma": 0.8}


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Family:
    """Float32, so that positions can be read from the weights."""
    return families.family(tmp_path_factory.mktemp("wide"), 3, torch.float32)


def distance(model: Path, family: Family, of: dict[str, dict[str, float]]) -> float:
    """Squares of a model's distance from a sum of vectors, weighted as said of each tensor."""
    state, total = load_file(model / "model.safetensors"), 0.0
    for name, weights in of.items():
        wanted = family.base[name].clone()
        for task, weight in weights.items():
            wanted += weight * (family.tasks[task][name] - family.base[name])
        total += float((state[name] - wanted).double().square().sum())
    return total


def scorer(family: Family, **changes: object) -> Scorer:
    def score(model: Path, _: str) -> float:
        return distance(model, family, {"layers.1.mlp.weight": WANTED})

    return Scorer(score, minimise=True, **changes)  # type: ignore[arg-type]


def options(**changes: object) -> MergeOptions:
    return MergeOptions("sum", **{"jobs": 2, "chunk": 512, "alpha": 1.0, **changes})  # type: ignore[arg-type]


def searched(family: Family, out: Path, judge: Scorer, plan: Plan, **changes: object) -> Searched:
    origin = Folders(family.base_path, family.paths)
    box = space(options(**changes), Grids(), origin.names)
    return search(origin, out, box, judge, plan)


def test_it_finds_the_weights(wide: Family, tmp_path: Path) -> None:
    """A square in three weights: found far closer than the start; written as `merge` writes it."""
    found = searched(wide, tmp_path / "out", scorer(wide), Plan(80, 1))
    points = found.points
    assert len(points.scores) == 80
    assert list(points.axes) == [f"weight {name}" for name in WANTED]
    assert points.values[0] == (1.0, 1.0, 1.0)  # the start
    assert points.scores[points.best].mean < points.scores[0].mean / 50
    weights = found.report.weights
    assert all(abs(weights[task] - WANTED[task]) < 0.15 for task in WANTED)
    merge(wide.base_path, wide.paths, tmp_path / "plain", options(weights=weights))
    ours, plain = (load_file(tmp_path / d / "model.safetensors") for d in ("out", "plain"))
    assert all(same(ours[name], plain[name]) for name in plain)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "The best 24 of 80 points of CMA-ES (arXiv 1604.00772), seed 1, scored" in card
    assert sorted(os.listdir(tmp_path)) == ["out", "plain"]


def test_the_seed_alone_decides(wide: Family, tmp_path: Path) -> None:
    """Whatever NumPy's own generator does; another seed tries other points."""
    runs = []
    for i, seed in enumerate((3, 3, 4)):
        np.random.seed(i)
        before = np.random.get_state()[1].tolist()  # type: ignore[index]
        found = searched(wide, tmp_path / str(i), scorer(wide), Plan(16, seed))
        assert np.random.get_state()[1].tolist() == before  # type: ignore[index]
        runs.append(found.points.values)
    assert runs[0] == runs[1] != runs[2]


def test_an_interrupted_search_goes_on(wide: Family, tmp_path: Path) -> None:
    calls: list[Path] = []
    inner = scorer(wide).evaluator

    def stops(model: Path, task: str) -> float:
        calls.append(model)
        if len(calls) == 10:
            raise KeyboardInterrupt
        return inner(model, task)

    def once() -> Searched:
        judge = Scorer(stops, Journal(tmp_path / "journal"), minimise=True)
        return searched(wide, tmp_path / "out", judge, Plan(20))

    with pytest.raises(KeyboardInterrupt):
        once()
    assert os.listdir(tmp_path) == ["journal"]
    found = once()
    assert len(calls) == 21
    plain = searched(wide, tmp_path / "plain", scorer(wide), Plan(20))
    assert plain.points == found.points


def failing(family: Family, when: Callable[[float], bool]) -> Scorer:
    """Fails where the weight of the first task says so."""
    inner = scorer(family).evaluator

    def fails(model: Path, task: str) -> float:
        name, base = "layers.1.mlp.weight", family.base
        state = load_file(model / "model.safetensors")[name] - base[name]
        taus = [(family.tasks[t][name] - base[name]).flatten() for t in WANTED]
        solved = torch.linalg.lstsq(torch.stack(taus, 1), state.flatten()[:, None]).solution
        if when(float(solved[0, 0])):
            raise EvaluationFailed(task, "ended with status 9", "")
        return inner(model, task)

    return Scorer(fails, minimise=True)


def test_what_fails_counts_as_worst(wide: Family, tmp_path: Path) -> None:
    found = searched(wide, tmp_path / "out", failing(wide, lambda w: w > 1.2), Plan(30))
    points = found.points
    assert points.failed
    assert len(points.failed) + len(points.scores) == 30
    assert all(values[0] <= 1.2 for values in points.values)
    assert found.to_dict()["search"]["failed"] == points.failed
    card = (tmp_path / "out" / "README.md").read_text()
    assert "Not scored, and so counted as worst:" in card
    assert card.count("ended with status 9") == len(points.failed)
    assert not any(what in why for what, why in points.failed.items())  # said once


def test_all_fail(wide: Family, tmp_path: Path) -> None:
    with pytest.raises(EvaluationFailed, match="ended with status 9"):
        searched(wide, tmp_path / "out", failing(wide, lambda _: True), Plan(30))
    assert not os.listdir(tmp_path)


def test_groups_of_layers_have_their_own_weights(wide: Family, tmp_path: Path) -> None:
    """Each tensor is the sum with its own group's weights; the search finds both groups'."""
    shallow, deep, rest = {"alpha": 1.5}, {"alpha": 0.4}, {"alpha": 0.9}
    of = {"layers.0.attn.weight": shallow, "layers.1.mlp.weight": deep, "norm.weight": rest}
    own = options(weights=rest, layer_weights=(shallow, deep))
    models = {"alpha": wide.paths["alpha"]}
    report = merge(wide.base_path, models, tmp_path / "plain", own)
    assert distance(tmp_path / "plain", wide, of) < 1e-9
    assert report.to_dict()["layer_weights"] == [shallow, deep]
    origin = Folders(wide.base_path, models)
    box = space(options(), Grids(), origin.names, layers=2)
    judge = Scorer(lambda model, _: distance(model, wide, of), minimise=True)
    found = search(origin, tmp_path / "out", box, judge, Plan(60))
    assert list(found.points.axes) == [
        "weight alpha elsewhere", "weight alpha layers 1/2", "weight alpha layers 2/2"
    ]  # fmt: skip
    assert [w["alpha"] for w in found.report.layer_weights] == pytest.approx([1.5, 0.4], abs=0.2)


def test_a_group_that_matches_nothing(wide: Family, tmp_path: Path) -> None:
    origin = Folders(wide.base_path, wide.paths)
    box = space(options(), Grids(), origin.names, layers=3)
    with pytest.raises(OptionError, match="of 3 groups of layers matches no tensor .* at most 2"):
        search(origin, tmp_path / "out", box, scorer(wide), Plan(5))
    assert not os.listdir(tmp_path)


def test_without_the_library(wide: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("taskstore.extras._there", lambda library: library != "cma")
    with pytest.raises(MissingExtra, match="a search by CMA-ES needs cma, the extra search: "):
        searched(wide, tmp_path / "out", scorer(wide), Plan(5))
    assert not os.listdir(tmp_path)


def test_a_budget_of_nothing() -> None:
    with pytest.raises(OptionError, match="a budget of 0 models scores none"):
        Plan(0)
    with pytest.raises(OptionError, match="seed -1 is negative"):
        Plan(1, -1)


def test_the_command(wide: Family, tmp_path: Path) -> None:
    """One axis: alpha; the run is drawn, and said with its seed."""
    program = 'print(os.path.getsize(os.path.join(model, "README.md")) % 7)'
    command = script(tmp_path, program).replace("{task}", "any")
    plot = tmp_path / "run.json"
    words = ("merge", wide.base_path, wide.paths["alpha"], "--method", "linear", "--eval", command)
    more = ("--search", "cma", "--budget", 7, "--seed", 5, "--plot", plot, "--json")
    code, shown, err = run(*words, *more, "-o", tmp_path / "out")
    assert code == 0, err
    found = json.loads(shown)["search"]
    assert (found["seed"], found["failed"], len(found["points"])) == (5, {}, 7)
    dots, best = json.loads(plot.read_text())["data"]
    assert dots["y"] == [point["score"] for point in found["points"]]
    assert best["y"] == np.maximum.accumulate(dots["y"]).tolist()
    code, shown, err = run(*words, "--search", "cma", "--budget", 2, "-o", tmp_path / "shown")
    assert code == 0, err
    assert "drawn by CMA-ES (arXiv 1604.00772), seed 0" in shown


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--search", "cma"], "--search does nothing without --eval"),
        (["--budget", "5", "--eval", "x {model}"], "--budget does nothing without --search"),
        (["--eval", "x {model}", "--search", "cma", "--budget", "0"], "0 is not in the range x>=1"),
        (
            ["--eval", "x {model}", "--search", "cma", "--method", "greedy_soup"],
            "greedy_soup is a search itself",
        ),
        (
            ["--eval", "x {model}", "--search", "cma", "--method", "linear", "--alpha", "1"],
            "nothing of 'linear' is left to search",
        ),
        (
            ["--eval", "x {model}", "--search", "cma", "--method", "swa", "--layers", "2"],
            "'swa' takes no weights",
        ),
        (
            ["--eval", "x {model}", "--search", "cma", "--option", "k=1:3:1",
             "--method", "consensus"],
            "option k is a whole number",
        ),
    ],
)  # fmt: skip
def test_errors_of_the_command(
    wide: Family, tmp_path: Path, words: list[str], message: str
) -> None:
    models = [wide.paths["alpha"]] if "linear" in words else list(wide.paths.values())
    code, _, err = run(
        "merge", wide.base_path, *models, "--method", "sum", *words, "-o", tmp_path / "out"
    )
    assert code in (1, 2)
    assert message in err
    assert not os.listdir(tmp_path)
