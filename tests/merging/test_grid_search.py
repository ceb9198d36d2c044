"""Alpha and options by the user's own measure: the best is found, nothing is scored twice."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import taskstore
from taskstore.errors import EvaluationFailed, InputError, TargetExists
from taskstore.evaluation.journal import Journal
from taskstore.merging import MergeOptions, merge
from taskstore.merging.methods import F32, Whole
from taskstore.merging.methods.wudi import Wudi
from taskstore.merging.search.grid_search import search
from taskstore.merging.search.grids import Grids
from taskstore.merging.search.origins import Folders, Stored
from taskstore.merging.search.outcome import Searched
from taskstore.merging.search.scoring import IDLE, Scorer, key
from tests.support import families
from tests.support.families import Family, same

TENTHS = tuple(i / 10 for i in range(11))


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Family:
    """Float32, so that a position on a path can be read from the weights."""
    return families.family(tmp_path_factory.mktemp("wide"), 3, torch.float32)


def options(method: str = "sum", **changes: object) -> MergeOptions:
    return MergeOptions(method, **{"chunk": 512, "jobs": 2, **changes})  # type: ignore[arg-type]


def position(model: Path, family: Family, task: str = "alpha") -> float:
    """How far a model is on the way from the base to a task: 0 to 1."""
    state, base, end = load_file(model / "model.safetensors"), family.base, family.tasks[task]
    name = "layers.1.mlp.weight"
    tau = (end[name] - base[name]).double()
    return float(((state[name] - base[name]).double() * tau).sum() / (tau * tau).sum())


def on_path(family: Family, target: Path, scorer: Scorer, **changes: object) -> Searched:
    models = {"alpha": family.paths["alpha"]}
    grids = Grids(alpha=TENTHS)
    own = options("linear", **changes)
    return search(Folders(family.base_path, models), target, own, grids, scorer)


def test_the_best_position_on_a_path(wide: Family, tmp_path: Path) -> None:
    """-|a - 0.37| is best at 0.4; what is written is what `merge` writes there."""
    said: list[str] = []
    scorer = Scorer(
        lambda model, _: -abs(position(model, wide) - 0.37),
        label="eval.py `x`\n{model}",
        scratch=tmp_path,
        say=said.append,
    )
    found = on_path(wide, tmp_path / "out", scorer)
    points = found.points
    assert points.values[points.best] == (0.4,)
    assert found.report.alpha == 0.4
    for (alpha,), scores in zip(points.values, points.scores, strict=True):
        assert scores.mean == pytest.approx(-abs(alpha - 0.37), abs=1e-5)
    merge(
        wide.base_path,
        {"alpha": wide.paths["alpha"]},
        tmp_path / "plain",
        options("linear", alpha=0.4),
    )
    ours, plain = (load_file(tmp_path / d / "model.safetensors") for d in ("out", "plain"))
    assert all(same(ours[name], plain[name]) for name in plain)
    assert sorted(os.listdir(tmp_path)) == ["out", "plain"]
    assert [line.split(":")[0] for line in said] == [f"alpha {a:g}" for a in TENTHS]
    card = (tmp_path / "out" / "README.md").read_text()
    assert card.startswith((tmp_path / "plain" / "README.md").read_text())
    assert "Points, scored with `` eval.py `x` {model} ``:" in card
    assert "| alpha | score |" in card
    assert "| **0.4** | **-0.03** |" in card
    assert "| 0.3 | -0.07 |" in card
    rows = found.to_dict()["search"]["points"]
    assert [row["values"]["alpha"] for row in rows if row["chosen"]] == [0.4]


def test_the_mean_over_tasks_counts(wide: Family, tmp_path: Path) -> None:
    """alpha wants 0.1 and beta 0.9, more strongly: 0.9 wins; a long list is cut in the card."""

    def score(model: Path, task: str) -> float:
        there = position(model, wide)
        return -abs(there - 0.1) if task == "alpha" else -2 * abs(there - 0.9)

    scorer = Scorer(score, tasks=("alpha", "beta"))
    models = {"alpha": wide.paths["alpha"]}
    grids = Grids(alpha=tuple(i / 30 for i in range(31)))
    origin = Folders(wide.base_path, models)
    points = search(origin, tmp_path / "out", options(), grids, scorer).points
    assert points.values[points.best] == (0.9,)
    best = points.scores[points.best]
    assert best.tasks == {"alpha": pytest.approx(-0.8), "beta": pytest.approx(0, abs=1e-5)}
    assert best.mean == sum(best.tasks.values()) / 2
    card = (tmp_path / "out" / "README.md").read_text()
    assert "The best 24 of 31 points" in card
    assert "| alpha | alpha | beta | mean score |" in card
    assert "| 0.0333333 |" not in card
    assert "| **0.9** |" in card


def test_losses_and_equal_scores(wide: Family, tmp_path: Path) -> None:
    loss = Scorer(lambda model, _: (position(model, wide) - 0.62) ** 2, minimise=True)
    assert on_path(wide, tmp_path / "loss", loss).report.alpha == 0.6
    assert "| alpha | loss |" in (tmp_path / "loss" / "README.md").read_text()
    for minimise in (False, True):
        level = Scorer(lambda model, _: float(position(model, wide) < 0.25), minimise=minimise)
        found = on_path(wide, tmp_path / f"level{minimise}", level)
        assert found.report.alpha == (0.3 if minimise else 0)


def test_two_grids_are_a_product(small: Family, tmp_path: Path) -> None:
    """Against merging and scoring every pair by itself."""
    target = small.tasks["beta"]["embed_tokens.weight"].float()

    def score(model: Path, _: str) -> float:
        found = load_file(model / "model.safetensors")["embed_tokens.weight"].float()
        return -float((found - target).norm())

    grids = Grids(alpha=(0.3, 0.8), options={"density": (0.2, 0.6, 1.0)})
    origin = Folders(small.base_path, small.paths)
    found = search(origin, tmp_path / "out", options("ties"), grids, Scorer(score))
    wanted = {}
    for alpha in (0.3, 0.8):
        for density in (0.2, 0.6, 1.0):
            folder = tmp_path / f"{alpha} {density}"
            own = options("ties", alpha=alpha, method_options={"density": density})
            merge(small.base_path, small.paths, folder, own)
            wanted[alpha, density] = score(folder, "")
    assert found.points.axes == {"alpha": (0.3, 0.8), "density": (0.2, 0.6, 1.0)}
    assert list(wanted) == found.points.values
    assert list(wanted.values()) == [scores.mean for scores in found.points.scores]
    best = max(wanted, key=lambda point: wanted[point])
    assert (found.report.alpha, found.report.options["density"]) == best


def test_options_that_are_fixed_stay(small: Family, tmp_path: Path) -> None:
    grids = Grids(options={"density": (0.2, 0.6)})
    fixed = options("ties", alpha=0.7, method_options={"per_tensor": 1.0})
    origin = Folders(small.base_path, small.paths)
    found = search(origin, tmp_path / "out", fixed, grids, Scorer(lambda *_: 1.0))
    assert found.report.alpha == 0.7
    assert found.report.options == {"density": 0.2, "mean": 1, "per_tensor": 1}


class Stops:
    """An evaluator that ends with an exception once, at its `at`-th call."""

    def __init__(self, family: Family, at: int, error: BaseException) -> None:
        self.calls: list[float] = []
        self._family, self._at, self._error = family, at, error

    def __call__(self, model: Path, task: str) -> float:
        self.calls.append(round(position(model, self._family), 3))
        if len(self.calls) == self._at:
            raise self._error
        return -abs(self.calls[-1] - 0.37)


def test_a_search_goes_on_where_it_was(wide: Family, tmp_path: Path) -> None:
    evaluator = Stops(wide, 5, KeyboardInterrupt())
    journal = tmp_path / "journal"
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    with pytest.raises(KeyboardInterrupt):
        on_path(wide, tmp_path / "out", Scorer(evaluator, Journal(journal), scratch=scratch))
    assert sorted(os.listdir(tmp_path)) == ["journal", "scratch"]
    assert not os.listdir(scratch)
    found = on_path(wide, tmp_path / "out", Scorer(evaluator, Journal(journal)))
    assert evaluator.calls == [0, 0.1, 0.2, 0.3, 0.4, *TENTHS[4:]]
    assert found.report.alpha == 0.4
    on_path(wide, tmp_path / "again", Scorer(evaluator, Journal(journal)))
    assert len(evaluator.calls) == 12


def test_a_point_that_fails_is_listed(wide: Family, tmp_path: Path) -> None:
    """What would be best fails: the next best is written; the same search tries it again."""
    journal = tmp_path / "journal"
    evaluator = Stops(wide, 5, EvaluationFailed("", "ended with status 3", "no data"))
    found = on_path(wide, tmp_path / "out", Scorer(evaluator, Journal(journal)))
    why = "the evaluation ended with status 3; it wrote: no data"
    assert found.points.failed == {"alpha 0.4": why}
    assert [values for (values,) in found.points.values] == [x for x in TENTHS if x != 0.4]
    assert found.report.alpha == 0.3
    assert found.to_dict()["search"]["failed"] == {"alpha 0.4": why}
    assert f"- alpha 0.4: {why}" in (tmp_path / "out" / "README.md").read_text()
    again = on_path(wide, tmp_path / "again", Scorer(evaluator, Journal(journal)))
    assert (again.report.alpha, again.points.failed) == (0.4, {})
    assert len(evaluator.calls) == 12


def test_what_is_no_score(wide: Family, tmp_path: Path) -> None:
    """All points fail: it ends after the first eight."""
    calls: list[str] = []

    def nan(_: Path, task: str) -> float:
        calls.append(task)
        return float("nan")

    with pytest.raises(EvaluationFailed, match="of task 'alpha' with 'alpha 0.7' gave nan, which"):
        on_path(wide, tmp_path / "out", Scorer(nan, tasks=("alpha",)))
    assert len(calls) == 8
    assert not (tmp_path / "out").exists()


def test_nothing_is_tried_for_a_target_or_a_grid_that_cannot_be(
    wide: Family, tmp_path: Path
) -> None:
    def never(*_: object) -> float:
        raise AssertionError

    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "model").touch()
    with pytest.raises(TargetExists):
        on_path(wide, tmp_path / "there", Scorer(never))
    origin = Folders(wide.base_path, wide.paths)
    for grids, message in (
        (Grids(options={"density": (0.2, 3.0)}), "density=3 of 'ties' is not a number from"),
        (Grids(options={"dense": (0.2, 0.3)}), "did you mean 'density'"),
        (Grids(tuple(map(float, range(200))), {"density": (0.1,) * 60}), "more than 10,000 points"),
    ):
        with pytest.raises(InputError, match=message):
            search(origin, tmp_path / "out", options("ties"), grids, Scorer(never))
    assert os.listdir(tmp_path) == ["there"]


def test_models_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no such folder"):
        Folders(tmp_path / "no", {"a": tmp_path})
    with pytest.raises(InputError, match="no fine-tune is given"):
        Folders(tmp_path, {})


CHANGES: list[Callable[[MergeOptions], MergeOptions]] = [
    lambda o: replace(o, method="ties"),
    lambda o: replace(o, alpha=0.2),
    lambda o: replace(o, weights={"beta": -1}),
    lambda o: replace(o, dtype="F16"),
    lambda o: replace(o, tokenizer_from="beta"),
    lambda o: replace(o, private_from="beta"),
]


def test_a_score_belongs_to_all_that_changes_the_model(tmp_path: Path) -> None:
    family = families.family(tmp_path)
    origin = Folders(family.base_path, family.paths)
    usual = options()
    first = key(origin, usual, origin.names)
    keys = {first, *(key(origin, change(usual), origin.names) for change in CHANGES)}
    keys.add(key(origin, usual, ["alpha", "beta"]))
    own = options("ties", method_options={"density": 0.3})
    keys |= {key(origin, own, origin.names)}
    assert len(keys) == len(CHANGES) + 3
    idle = replace(usual, jobs=1, chunk=8, max_memory=1 << 30, overwrite=True, unrelated=True)
    assert key(origin, replace(idle, shard_bytes=1, alpha=1.0), origin.names) == first
    assert {"jobs", "chunk"} < IDLE < set(vars(usual))
    os.utime(family.paths["beta"] / "model.safetensors", (1, 1))
    assert key(origin, usual, origin.names) != first


def test_another_evaluator_scores_again(wide: Family, tmp_path: Path) -> None:
    journal = Journal(None)
    evaluator = Stops(wide, 0, AssertionError())
    for label, calls in (("one", 11), ("one", 11), ("two", 22)):
        on_path(wide, tmp_path / f"{calls} {label}", Scorer(evaluator, journal, label),
                overwrite=True)  # fmt: skip
        assert len(evaluator.calls) == calls


def test_a_store_is_searched(packed: Path, small: Family, tmp_path: Path) -> None:
    """`packed` is made by `sum`, so its own multi-task vector is what alpha scales."""
    base = small.base["embed_tokens.weight"].float()

    def score(model: Path, _: str) -> float:
        return float((load_file(model / "model.safetensors")["embed_tokens.weight"] - base).norm())

    scorer = Scorer(score, minimise=True)
    origin = Stored(taskstore.open(packed))
    assert origin.names == ["alpha", "beta", "gamma"]
    found = search(origin, tmp_path / "out", options(), Grids(alpha=(0.2, 0.4)), scorer)
    assert found.report.alpha == 0.2
    norms = [scores.mean for scores in found.points.scores]
    assert norms[1] == pytest.approx(2 * norms[0], rel=0.02)
    assert "merged from its own multi-task model" in found.report.notes["store"]
    assert "## Search" in (tmp_path / "out" / "README.md").read_text()
    assert origin.key(["alpha"]) != origin.key(["beta"])
    some = Stored(taskstore.open(packed), ["beta"])
    assert some.names == ["beta"]
    assert some.merge(tmp_path / "beta", options()).models == ["beta"]
    with pytest.raises(InputError, match="no task 'delta'"):
        Stored(taskstore.open(packed), ["delta"])


def test_another_alpha_is_not_merged_again(
    small: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`wudi` solves once for each ridge, whatever the alphas; the model is the same bit for bit."""
    solved: list[str] = []
    inner = Wudi.merge_whole

    def counted(self: Wudi, matrix: Whole) -> F32:
        solved.append(matrix.tensor)
        return inner(self, matrix)

    monkeypatch.setattr(Wudi, "merge_whole", counted)
    grids = Grids((0.2, 0.5, 0.9), {"ridge": (0.3, 1.0)})
    origin = Folders(small.base_path, small.paths)
    scorer = Scorer(lambda model, _: float((model / "model.safetensors").stat().st_size))
    in_order = options("wudi", jobs=1)  # of several blocks at once one may find its matrix gone
    found = search(origin, tmp_path / "out", in_order, grids, scorer)
    assert found.points.values[found.points.best] == (0.2, 0.3)
    matrices = len(set(solved))
    assert matrices
    assert len(solved) == 3 * matrices  # the last time for the model that is written
    own = options("wudi", alpha=0.2, method_options={"ridge": 0.3})
    merge(small.base_path, small.paths, tmp_path / "plain", own)
    ours, plain = (load_file(tmp_path / d / "model.safetensors") for d in ("out", "plain"))
    assert all(same(ours[name], plain[name]) for name in plain)
    seen: list[dict[str, torch.Tensor]] = []

    def look(model: Path, _: str) -> float:
        seen.append(load_file(model / "model.safetensors"))
        return float(len(seen))

    solved.clear()
    search(origin, tmp_path / "two", in_order, Grids((0.2, 0.5)), Scorer(look))
    assert len(solved) == matrices  # the best had the vector that was last
    merge(small.base_path, small.paths, tmp_path / "half", options("wudi", alpha=0.5))
    half = load_file(tmp_path / "half" / "model.safetensors")
    assert all(same(seen[1][name], half[name]) for name in half)
    assert sorted(os.listdir(tmp_path)) == ["half", "out", "plain", "two"]
