"""Particles in weight space start as the fine-tunes, move as published, and find the weights."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from taskstore.errors import OptionError
from taskstore.merging import MergeOptions
from taskstore.merging.search import swarm_search
from taskstore.merging.search.grids import Grids
from taskstore.merging.search.origins import Folders
from taskstore.merging.search.outcome import Searched
from taskstore.merging.search.scoring import Scorer
from taskstore.merging.search.swarm_search import Particle
from taskstore.merging.search.trials import Plan, Tried
from tests.merging.test_trials import places
from tests.support import families
from tests.support.evaluators import run, script
from tests.support.families import Family

SUM = MergeOptions("sum", jobs=2, chunk=512)


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Family:
    return families.family(tmp_path_factory.mktemp("wide"), 3, torch.float32)


def searched(family: Family, out: Path, plan: Plan) -> Searched:
    """The aim lies between the fine-tunes."""

    def loss(model: Path, _: str) -> float:
        return sum((x - y) ** 2 for x, y in zip(places(model, family), AIM, strict=True))

    origin = Folders(family.base_path, family.paths)
    box = swarm_search.space(SUM, Grids(), origin.names)
    return swarm_search.search(origin, out, box, Scorer(loss, minimise=True), plan)


AIM = (0.3, 0.5, 0.2)


def test_it_finds_a_model_between_the_fine_tunes(wide: Family, tmp_path: Path) -> None:
    found = searched(wide, tmp_path / "out", Plan(80, 1))
    points = found.points
    assert points.values[:3] == [(1, 0, 0), (0, 1, 0), (0, 0, 1)]
    assert min(score.mean for score in points.scores) == points.scores[points.best].mean
    first = [score.mean for score in points.scores[:16]]  # the start of 16 particles
    assert points.scores[points.best].mean < min(first) / 10
    assert tuple(found.report.weights.values()) == points.values[points.best]
    card = (tmp_path / "out" / "README.md").read_text()
    assert "of Model Swarms (arXiv 2410.11163), seed 1, scored" in card
    again = searched(wide, tmp_path / "again", Plan(80, 1))
    assert again.points == points
    assert searched(wide, tmp_path / "other", Plan(20, 2)).points.values != points.values[:20]


def test_a_move() -> None:
    """By the formula, with the factors that the generator gives."""
    own = Tried((0.5, 0.0), 0, (), (1.0,), "")
    best, worst = own._replace(values=(0.0, 1.0)), own._replace(values=(2.0, 2.0))
    particle = Particle(np.array([1.0, 0.5]), np.array([0.1, -0.1]), own, since=3)
    swarm_search._move(particle, best, worst, 0.5, 4, np.random.default_rng(7))
    r = np.random.default_rng(7).random(4)
    moves = np.array([[0.1, -0.1], [-0.5, -0.5], [-1.0, 0.5], [-1.0, -1.5]])
    factors = r * [0.4, 0.3, 0.3, 0.3]
    v = factors @ moves / factors.sum()
    assert particle.v_D == pytest.approx(v)
    assert particle.x_D == pytest.approx([1.0, 0.5] + 0.5 * v)


def test_a_stray_particle_starts_again_from_its_best() -> None:
    own = Tried((0.5, 0.0), 0, (), (1.0,), "")
    particle = Particle(np.array([9.0, 9.0]), np.array([5.0, 5.0]), own, since=0)
    swarm_search._move(particle, own, own, 1.0, 6, np.random.default_rng(0))
    drawn = np.random.default_rng(0).random(4) * [0.4, 0.3, 0.3, 0.3]
    assert particle.x_D == pytest.approx([0.5, 0.0])  # best, worst and own are one place
    assert drawn.sum() > 0
    assert particle.since == 6


def test_what_cannot_be_searched() -> None:
    for options, grids, names, message in (
        (MergeOptions("ties"), Grids(), ["a", "b"], "the method is 'ties'; take sum"),
        (SUM, Grids(), ["a"], "give two or more whose weights are left open"),
        (SUM, Grids((0.1, 0.2)), ["a", "b"], "give one value of alpha, or search by cma"),
    ):
        with pytest.raises(OptionError, match=message):
            swarm_search.space(options, grids, names)


def test_the_command(wide: Family, tmp_path: Path) -> None:
    command = script(tmp_path, "print(1)").replace("{task}", "any")
    words = ("merge", wide.base_path, *wide.paths.values(), "--method", "sum", "--eval", command)
    code, shown, err = run(*words, "--search", "swarm", "--budget", 4, "-o", tmp_path / "out")
    assert code == 0, err
    assert "drawn by Model Swarms (arXiv 2410.11163), seed 0" in shown
    assert sorted(os.listdir(tmp_path)) == ["eval it.py", "out"]
