"""Fisher, gradient matching, RegMean and TSV: by hand, and against float64 computations."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from numpy.typing import NDArray

from taskstore.errors import InputError
from tests.support import oracle_merge
from tests.support.blocks import SHAPES, Models, close, merge_models, random_models

F32 = NDArray[np.float32]


def like(made: Models, seed: int) -> list[dict[str, F32]]:
    """Diagonal statistics, with zeros among them."""
    rng = np.random.default_rng(seed)
    return [
        {
            n: (np.maximum(rng.standard_normal(t.shape), 0) ** 2).astype("f4")
            for n, t in task.items()
        }
        for task in made.tasks
    ]


@pytest.mark.parametrize("name", ["fisher", "regmean", "gradient"])
def test_importance_cannot_be_negative(name: str) -> None:
    made = random_models(2, weights=[1, -0.5])
    made.statistics = {kind: like(made, 1) for kind in ("fisher", "hessian")}
    with pytest.raises(InputError, match=f"{name!r} takes weights of 0 and more"):
        merge_models(name, made)


def test_fisher_by_hand() -> None:
    """Norms are 5 and 10: (3/5 * 1 + 6/10 * 2) / (3/5 + 6/10) = 1.5; then 4/5 and 8/10."""
    tau, fishers = [[1, 5], [2, -5]], [[3, 4], [6, 8]]
    tasks = [{"w": np.array(row, np.float32)} for row in tau]
    statistics = {"fisher": [{"w": np.array(row, np.float32)} for row in fishers]}
    found = merge_models("fisher", Models(tasks, statistics=statistics))
    np.testing.assert_allclose(found["w"], [1.5, 0], atol=1e-6)


@pytest.mark.parametrize("floor", [1e-6, 0.5])
def test_fisher_equals_the_whole_computation(floor: float) -> None:
    made = random_models(weights=[1, 2, 0, 0.5])
    fishers = like(made, 1)
    fishers[3] = {n: 0 * f for n, f in fishers[3].items()}
    made.statistics = {"fisher": fishers}
    wanted = oracle_merge.fisher(made.tasks, fishers, made.weights, floor)
    close(merge_models("fisher", made, {"floor": floor}), wanted)


def test_equal_fisher_information_is_the_average() -> None:
    made = random_models(lacking=False)
    same = {n: np.full(s, 0.25, np.float32) for n, s in SHAPES.items()}
    made.statistics = {"fisher": [same] * 4}
    close(merge_models("fisher", made), oracle_merge.average(made.tasks))


@pytest.mark.parametrize(
    "options",
    [
        {"alpha": 1, "delta0": 1e-12, "s0": 1},
        {"alpha": 0.3, "delta0": 0.5, "s0": 4},
    ],
)
@pytest.mark.parametrize("measured", [True, False])
def test_gradient_equals_the_whole_computation(
    options: Mapping[str, float], measured: bool
) -> None:
    made = random_models(weights=[1, 2, 0, 1000])
    hessians, base = like(made, 1), like(made, 2)[0] if measured else {}
    made.statistics = {"hessian": hessians, **({"hessian_base": [base]} if measured else {})}
    wanted = oracle_merge.gradient(made.tasks, hessians, base, made.weights, options)
    close(merge_models("gradient", made, options), wanted, 1e-5)


def test_a_constant_hessian_gives_task_arithmetic() -> None:
    """delta_0 + s_0 H_0 + H_t is then Hbar, when H_0 leaves the other tasks' part of it out."""
    made = random_models(3, lacking=False)
    zero = [{n: np.zeros(s, np.float32) for n, s in SHAPES.items()}] * 3
    made.statistics = {"hessian": zero}
    close(merge_models("gradient", made), oracle_merge.total(made.tasks))
    same = {n: np.full(s, 0.5, np.float32) for n, s in SHAPES.items()}
    made.statistics = {"hessian": [same] * 3}
    wanted = {n: tau / 3 for n, tau in oracle_merge.total(made.tasks).items()}
    close(merge_models("gradient", made), wanted)


def gram(rng: np.random.Generator, inputs: int, n: int) -> F32:
    x = rng.standard_normal((n, inputs)) * rng.uniform(0.1, 3, inputs)
    return (x.T @ x / n).astype(np.float32)


def test_regmean_by_hand() -> None:
    """One input that only the first task uses, one that the second uses three times as much."""
    grams = [np.diag([1.0, 1.0]), np.diag([0.0, 3.0])]
    tasks = [{"w": np.array([[4, 4]], np.float32)}, {"w": np.array([[8, 8]], np.float32)}]
    statistics = {"gram": [{"w": g.astype(np.float32)} for g in grams]}
    found = merge_models("regmean", Models(tasks, statistics=statistics))
    np.testing.assert_allclose(found["w"], [[4, 7]], rtol=1e-6)


def test_regmean_where_no_task_used_an_input() -> None:
    tasks = [{"w": np.array([[4, 2]], np.float32)}, {"w": np.array([[8, 6]], np.float32)}]
    statistics = {"gram": [{"w": np.diag([1, 0]).astype("f4")}, {"w": np.zeros((2, 2), "f4")}]}
    found = merge_models("regmean", Models(tasks, statistics=statistics))
    np.testing.assert_allclose(found["w"], [[4, 4]], rtol=1e-6)


@pytest.mark.parametrize("a", [0, 0.9, 1])
def test_regmean_equals_the_computation_on_weights(a: float) -> None:
    rng = np.random.default_rng(5)
    made = random_models(weights=[1, 2, 0.5, 1])
    linear = {n: s[1] for n, s in SHAPES.items() if n.endswith("weight")}
    grams = [{n: gram(rng, inputs, 40) for n, inputs in linear.items()} for _ in made.tasks]
    base = {n: rng.standard_normal(s).astype("f4") for n, s in SHAPES.items()}
    made.statistics, made.base = {"gram": grams}, base
    wanted = oracle_merge.regmean(made.tasks, grams, base, made.weights, a)
    close(merge_models("regmean", made, {"a": a}), wanted, 1e-5)


def test_tsv_by_hand() -> None:
    """One direction per task: each other's are orthogonal, or the same."""
    for one, two, merged in (([5, 1], [1, 7], [5, 7]), ([4, 0], [2, 0], [3, 0])):
        tasks = [{"w": np.diag(values).astype(np.float32)} for values in (one, two)]
        np.testing.assert_allclose(
            merge_models("tsv", Models(tasks))["w"], np.diag(merged), atol=1e-6
        )


@pytest.mark.parametrize("tasks", [1, 2, 3, 4])
def test_tsv_equals_the_whole_computation(tasks: int) -> None:
    made = random_models(tasks)
    close(merge_models("tsv", made), oracle_merge.tsv(made.tasks), 2e-5)


def test_tsv_of_equal_and_of_low_rank_vectors() -> None:
    """Two adapters of one direction, beside a task that left the matrix alone."""
    rng = np.random.default_rng(7)
    tau = np.outer(rng.standard_normal(9), rng.standard_normal(12)).astype(np.float32)
    tasks = [{"w": tau}, {"w": tau}, {"w": 0 * tau}]
    np.testing.assert_allclose(merge_models("tsv", Models(tasks))["w"], tau, atol=1e-5)


def test_tsv_of_a_matrix_that_is_too_small_is_the_mean() -> None:
    tasks = [{"w": np.full((2, 3), t, np.float32)} for t in (1, 2, 6)]
    np.testing.assert_allclose(merge_models("tsv", Models(tasks))["w"], 3, rtol=1e-6)
