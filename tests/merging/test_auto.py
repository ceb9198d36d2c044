"""`--method auto`: what is tried follows from the models; the best is searched, all reported."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import taskstore
from taskstore.errors import EvaluationFailed, OptionError
from taskstore.merging import MergeOptions
from taskstore.merging.search import auto
from taskstore.merging.search.origins import Folders, Stored
from taskstore.merging.search.scoring import Scorer
from taskstore.merging.search.shortlist import Facts, measure, shortlist
from taskstore.merging.search.trials import Plan
from tests.support import families
from tests.support.evaluators import run, script
from tests.support.families import Family

PLAIN = MergeOptions("sum", jobs=2, chunk=512)
USUAL = Facts(tasks=3, cosine=0.05, length=0.05, matrices=0.9, blocks=True)


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Family:
    return families.family(tmp_path_factory.mktemp("wide"), 2, torch.float32)


def test_the_rule() -> None:
    for facts, methods in (
        (USUAL, "sum ties tsv wudi localize_and_stitch"),
        (replace(USUAL, length=0.01), "sum ties tsv wudi dare+sum"),
        (replace(USUAL, tasks=4, matrices=0.2), "sum ties consensus+ties localize_and_stitch"),
        (replace(USUAL, cosine=0.5), "average model_stock ties"),
        (replace(USUAL, tasks=1), "linear"),
        (
            replace(USUAL, cosine=0.5, measured=frozenset({"gram", "fisher"})),
            "average model_stock ties regmean fisher",
        ),
    ):
        assert " ".join(shortlist(facts)) == methods


def test_what_is_measured(wide: Family, tmp_path: Path) -> None:
    """Beside the whole vectors in float64."""
    origin = Folders(wide.base_path, wide.paths)
    found = measure(origin, tmp_path / "out", PLAIN)
    base = torch.cat([t.flatten() for t in wide.base.values()]).double()
    taus = [torch.cat([t[n].flatten() for n in wide.base]).double() - base
            for t in wide.tasks.values()]  # fmt: skip
    cosine = torch.nn.functional.cosine_similarity(taus[0], taus[1], dim=0)
    assert found.cosine == pytest.approx(float(cosine), abs=1e-5)
    lengths = sorted(float(tau.norm() / base.norm()) for tau in taus)
    assert found.length == pytest.approx(sum(lengths) / 2, rel=1e-5)
    matrices = sum(t.numel() for t in wide.base.values() if t.ndim == 2) / len(base)
    assert found.matrices == pytest.approx(matrices)
    assert (found.tasks, found.blocks, found.measured) == (2, True, frozenset())


def aim(family: Family, deep: float) -> Scorer:
    """A loss that is least for half of the sum, `deep` of it in the last block."""

    def loss(model: Path, _: str) -> float:
        state, total = load_file(model / "model.safetensors"), 0.0
        for name, alpha in (("norm.weight", 0.5), ("layers.1.mlp.weight", deep)):
            wanted = family.base[name].clone()
            for task in family.tasks.values():
                wanted += alpha * (task[name] - family.base[name])
            total += float((state[name] - wanted).double().square().sum())
        if total > 100:
            raise EvaluationFailed("", "ended with status 7", "")
        return total

    return Scorer(loss, minimise=True)


def test_the_best_is_searched(wide: Family, tmp_path: Path) -> None:
    """It begins where the first round ended, and finds that deep blocks want more."""
    origin = Folders(wide.base_path, wide.paths)
    found = auto.search(origin, tmp_path / "out", PLAIN, aim(wide, 0.8), Plan(60))
    rows = {c.method: c for c in found.candidates}
    assert list(rows)[:4] == ["sum", "ties", "tsv", "wudi"]
    assert [c.method for c in found.candidates if c.chosen] == ["sum"]
    assert rows["sum"].alpha == 0.6
    assert found.points is not None
    assert rows["sum"].scores is not None
    points = found.points
    assert points.scores[0].mean == pytest.approx(rows["sum"].scores.mean, rel=1e-5)
    assert len(points.scores) == 60 - 3 * len(rows)
    assert points.scores[points.best].mean < rows["sum"].scores.mean / 2
    assert found.report.method == "sum+lines"
    card = (tmp_path / "out" / "README.md").read_text()
    assert "## Methods that were tried" in card
    assert "| **sum** | **different tasks** | **0.6** |" in card
    assert "## Search" in card


def test_a_small_budget_takes_the_best_of_the_list(wide: Family, tmp_path: Path) -> None:
    origin = Folders(wide.base_path, wide.paths)
    found = auto.search(origin, tmp_path / "out", PLAIN, aim(wide, 0.5), Plan(5))
    assert found.points is None
    assert (found.report.method, found.report.alpha) == ("sum", 0.6)
    with pytest.raises(OptionError, match=r"5 methods are tried \(sum, .*the budget is 4"):
        auto.search(origin, tmp_path / "none", PLAIN, aim(wide, 0.5), Plan(4))
    with pytest.raises(OptionError, match="finds alpha, weights and options"):
        own = replace(PLAIN, alpha=0.3)
        auto.search(origin, tmp_path / "none", own, aim(wide, 0.5), Plan(9))
    assert not (tmp_path / "none").exists()


def test_a_store_is_merged_by_the_best(packed: Path, tmp_path: Path) -> None:
    """Its tasks are read out of it, each once per method."""
    origin = Stored(taskstore.open(packed))
    scorer = Scorer(lambda model, _: float((model / "README.md").stat().st_size % 11))
    found = auto.search(origin, tmp_path / "out", PLAIN, scorer, Plan(8))
    assert found.facts.tasks == 3
    assert all(c.scores is not None for c in found.candidates)
    assert (tmp_path / "out" / "model.safetensors").exists()


def test_the_command(wide: Family, tmp_path: Path) -> None:
    command = script(tmp_path, "print(os.path.getsize(model + '/README.md') % 7)")
    words = ("merge", wide.base_path, *wide.paths.values(), "--method", "auto", "--eval",
             command.replace("{task}", "x"), "--budget", 12)  # fmt: skip
    code, shown, err = run(*words, "--json", "-o", tmp_path / "out")
    assert code == 0, err
    found = json.loads(shown)
    assert len(found["auto"]["methods"]) == 5
    assert sum(row["chosen"] for row in found["auto"]["methods"]) == 1
    code, shown, err = run(*words, "-o", tmp_path / "shown")
    assert code == 0, err
    assert "methods that were tried" in shown
    code, _, err = run(*words[:-4], "-o", tmp_path / "none")
    assert code == 2
    assert "--method auto needs --eval" in err
