"""Scores of a store beside its base and originals, from Python and as a command."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file

import taskstore
from taskstore.errors import EvaluationFailed, InputError, UnknownTask
from taskstore.evaluation.bench import Bench, evaluate
from taskstore.evaluation.journal import Journal
from tests.support import families
from tests.support.evaluators import run, script


@pytest.fixture
def store(packed: Path) -> taskstore.Store:
    return taskstore.open(packed)


def closeness(
    small: families.Family,
) -> Callable[[Path, str], float]:
    """An evaluator: minus the distance to the fine-tune."""

    def score(model: Path, task: str) -> float:
        state = load_file(model / "model.safetensors")
        return -sum(
            float((state[name].double() - value.double()).square().sum())
            for name, value in small.tasks[task].items()
        )

    return score


def test_a_store_beside_base_and_originals(store: taskstore.Store, small: families.Family) -> None:
    seen: list[str] = []
    positive = closeness(small)
    bench = Bench(lambda m, t: 1 + positive(m, t), Journal(None), say=seen.append)
    found = evaluate(store, bench, originals={"beta": small.paths["beta"]}, base=True)
    assert [score.task for score in found.scores] == ["alpha", "beta", "gamma"]
    alpha, beta, _ = found.scores
    assert (beta.original, alpha.original, alpha.kept) == (1.0, None, None)
    assert beta.base is not None
    assert beta.base < beta.rebuilt < 1
    assert beta.kept == beta.rebuilt
    assert found.to_dict()["mean_kept"] == beta.kept
    assert seen[0] == f"alpha, rebuilt: {alpha.rebuilt:g}"
    assert seen[3] == f"alpha, the base: {alpha.base:g}"  # after all that are rebuilt
    with pytest.raises(UnknownTask):
        evaluate(store, bench, tasks=["alpa"])
    with pytest.raises(UnknownTask):
        evaluate(store, bench, originals={"alpa": small.paths["alpha"]})
    with pytest.raises(InputError, match="the original of task 'beta' is not at"):
        evaluate(store, bench, originals={"beta": "nowhere"})


def test_what_is_known_is_not_evaluated_again(
    store: taskstore.Store, small: families.Family, tmp_path: Path
) -> None:
    journal = tmp_path / "scores.jsonl"
    calls: list[str] = []

    def fails_at_gamma(model: Path, task: str) -> float:
        if task == "gamma" and len(calls) < 3:
            raise EvaluationFailed(task, "is tired", "")
        calls.append(task)
        return 0.5

    for _ in range(2):
        with pytest.raises(EvaluationFailed):
            evaluate(store, Bench(fails_at_gamma, Journal(journal)))
    assert calls == ["alpha", "beta"]
    with open(journal, "a") as file:
        file.write('[["", "gamma", "cut off')  # as a crash leaves it
    calls.append("")
    evaluate(store, Bench(fails_at_gamma, Journal(journal)))
    evaluate(store, Bench(fails_at_gamma, Journal(journal)))
    assert calls == ["alpha", "beta", "", "gamma"]
    evaluate(store, Bench(fails_at_gamma, Journal(journal), label="another"))
    assert calls[4:] == ["alpha", "beta", "gamma"]
    bench = Bench(fails_at_gamma, Journal(journal))
    bench.original(small.paths["beta"], "beta")
    bench.original(small.paths["beta"], "beta")
    assert calls[7:] == ["beta"]


def test_eval_and_tune_as_commands(small: families.Family, tmp_path: Path) -> None:
    command = script(tmp_path, "print(json.dumps({'score': len(task) + ('base' in model) / 10}))")
    models = [f"{name}={path}" for name, path in small.paths.items()]
    store = tmp_path / "store"
    code, out, err = run(
        "tune", small.base_path, *models, "-o", store, "--eval", command, "--lambda", "0.2,0.4"
    )
    assert code == 0, err
    assert "alpha, lambda 0.2: 5" in err
    assert out.splitlines()[1].split() == ["task", "0.2", "0.4", "lambda"]
    assert not list(tmp_path.glob("*.jsonl"))
    code, out, err = run(
        "eval", store, "beta", "--eval", command, "--original", models[1], "--base"
    )
    assert code == 0, err
    assert out.splitlines()[2].split() == ["beta", "4.1", "4", "4", "100.0%"]
    both = [word for model in models[:2] for word in ("--original", model)]
    assert (
        "kept 100.0% on average of 2 tasks, 100.0% worst"
        in run("eval", store, "alpha", "beta", "--eval", command, *both)[1]
    )
    code, out, err = run("eval", store, "--eval", command, "--json", "--original", models[0])
    assert (code, err) == (0, "")
    assert json.loads(out)["scores"][0]["kept"] == 1
    code, out, _ = run(
        "tune", small.base_path, *models, "-o", store, "--eval", command, "--json", "--overwrite"
    )
    assert json.loads(out)["tasks"]["gamma"]["lambda"] == 0.2


def test_wrong_use(small: families.Family, packed: Path, tmp_path: Path) -> None:
    for words, message in (
        (("eval", packed, "--eval", "x"), "does not say where {model} goes"),
        (("eval", packed, "bta", "--eval", "x {model}"), "did you mean 'beta'?"),
        (("tune", small.base_path, small.paths["beta"], "-o", tmp_path / "s", "--eval", "x {model}",
          "--lambda", "low"), "is not a list of numbers"),
    ):  # fmt: skip
        code, out, err = run(*words)
        assert (code, out) == (1 if "bta" in words else 2, "")
        assert message in err
    assert run("eval", packed)[0] == 2
