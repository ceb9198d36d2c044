"""The fewest bits that are good enough, by score."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

import taskstore
from taskstore.errors import InputError, TargetNotReached
from taskstore.evaluation.bench import Bench
from taskstore.evaluation.journal import Journal
from taskstore.packing.search_bits import GRID, aim_at_score
from tests.support import families
from tests.support.evaluators import run, script
from tests.support.families import options

W = "layers.0.attn.weight"


def closeness(small: families.Family, wanted: dict[str, float]) -> Bench:
    """Scores 1 minus the relative error of one tensor; less a bit by bit for greedy tasks."""

    def score(model: Path, task: str) -> float:
        tau = small.tasks[task][W].float() - small.base[W].float()
        missed = load_file(model / "model.safetensors")[W].float() - small.tasks[task][W].float()
        return max(0.0, 1 - wanted[task] * float(missed.norm() ** 2 / tau.norm() ** 2))

    return Bench(score, Journal(None))


def test_each_task_gets_the_fewest_bits_that_do(small: families.Family, tmp_path: Path) -> None:
    bench = closeness(small, {"alpha": 0.05, "beta": 1, "gamma": 20})
    aimed = aim_at_score(
        small.base_path, small.paths, tmp_path / "s", 0.9, bench, options=options(tiers="rest")
    )
    assert aimed.bits["alpha"] < aimed.bits["beta"] < aimed.bits["gamma"]
    assert min(aimed.reached.values()) >= 0.9
    for task, scores in aimed.scores.items():
        bits = aimed.bits[task]
        assert scores[bits] == pytest.approx(aimed.reached[task])
        below = [b for b in GRID if b < bits]
        assert not below or scores[below[-1]] < 0.9  # one step less was measured, too little
        assert len(scores) <= 4
    store = taskstore.open(tmp_path / "s")
    assert {name: task.bits for name, task in store.manifest.tasks.items()} == aimed.bits
    assert all(store.tiers(task) == ["rest"] for task in store.tasks)


def test_a_target_out_of_reach(small: families.Family, tmp_path: Path) -> None:
    bench = closeness(small, {"alpha": 0.1, "beta": 1, "gamma": 80})
    where = small.base_path, small.paths, tmp_path / "s", 0.9
    with pytest.raises(TargetNotReached, match=r"'gamma' keeps [0-9.]+% at 4 bits") as caught:
        aim_at_score(*where, bench, options=options(tiers="rest"))
    assert set(caught.value.best) == {"gamma"}
    assert not list(tmp_path.iterdir())
    aimed = aim_at_score(*where, bench, options=options(tiers="rest"), anyway=True)
    assert aimed.bits["gamma"] == 4
    assert taskstore.open(tmp_path / "s").manifest.tasks["gamma"].bits == 4


def test_what_makes_no_sense(small: families.Family, tmp_path: Path) -> None:
    where = small.base_path, small.paths, tmp_path / "s"
    with pytest.raises(InputError, match="is no share of a score"):
        aim_at_score(*where, 1.5, closeness(small, {}), options=options(tiers="rest"))
    with pytest.raises(InputError, match="'alpha' has the score 0, not above 0"):
        aim_at_score(
            *where, 0.9, Bench(lambda *_: 0.0, Journal(None)), options=options(tiers="rest")
        )
    assert not list(tmp_path.iterdir())


def test_the_commands(small: families.Family, tmp_path: Path) -> None:
    words = [small.base_path, *(f"{n}={p}" for n, p in small.paths.items()), "-o", tmp_path / "s"]
    command = script(tmp_path, "print(json.dumps({'score': 1.0}))")
    code, out, err = run("pack", *words, "--target", "0.99", "--eval", command, "--json")
    assert code == 0, err
    rows = json.loads(out)["tasks"]
    assert {row["bits"] for row in rows.values()} == {GRID[0]}
    assert not list(tmp_path.glob("*.jsonl"))
    failing = script(tmp_path, "sys.exit('no data')")
    args = ["--overwrite", "--target", "0.99", "--eval", failing]
    code, _, err = run("pack", *words, *args)
    assert (code, "no data" in err) == (1, True)
    assert taskstore.open(tmp_path / "s").tasks == ["alpha", "beta", "gamma"]  # still the old one
    assert run("pack", *words, "--target", "0.99")[0] == 2


def test_every_tier_is_scored(small: families.Family, tmp_path: Path) -> None:
    chosen = options(tiers="mask,rest,exact")
    taskstore.pack(small.base_path, small.paths, tmp_path / "s", chosen)
    text = "print(json.dumps({'score': os.path.getsize(model + '/model.safetensors')}))"
    command = script(tmp_path, text)
    code, out, err = run(
        "eval", tmp_path / "s", "beta", "--eval", command, "--record", "size", "--json"
    )
    assert code == 0, err
    (score,) = json.loads(out)["scores"]
    assert set(score["lower"]) == {"mask", "rest"}
    recorded = taskstore.open(tmp_path / "s")
    assert recorded.manifest.version == 5  # its history says when it was scored
    assert (
        "| task | base | original | mask | rest | rebuilt |"
        in (tmp_path / "s" / "README.md").read_text()
    )
    assert "mask" in run("info", tmp_path / "s")[1].split("size", 1)[1]
