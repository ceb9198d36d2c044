"""Merge methods that need nothing but weights: by hand, and against float64 computations."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskstore.errors import InputError
from taskstore.merging.methods.lawa import natural_order
from taskstore.merging.methods.model_stock import ratio
from tests.support import oracle_merge
from tests.support.blocks import SHAPES, Models, close, merge, merge_models, random_models


def test_average_by_hand() -> None:
    tau = np.array([[1, -2], [3, 2], [5, 3]], np.float32)
    assert merge("average", tau).tolist() == [3.0, 1.0]


@pytest.mark.parametrize("name", ["average", "warm"])
def test_average_weighs(name: str) -> None:
    made = random_models(weights=[1, 2, 0.5, -1])
    close(merge_models(name, made), oracle_merge.average(made.tasks, made.weights))


def test_weights_that_cancel_have_no_mean() -> None:
    with pytest.raises(InputError, match=r"'a\.weight': the weights .* add up to 0"):
        merge_models("average", random_models(2, weights=[1, -1]))


def test_swa_is_the_running_mean() -> None:
    tau = np.array([[1], [2], [6]], np.float32)
    assert merge("swa", tau).tolist() == [3.0]
    made = random_models()
    close(merge_models("swa", made), oracle_merge.average(made.tasks))


def test_lawa_takes_the_last_checkpoints() -> None:
    """In natural order: 500 comes before 1000, though its name sorts behind."""
    names = ["checkpoint-1000", "checkpoint-1500", "checkpoint-500"]
    tasks = [{"w": np.array([v], np.float32)} for v in (2.0, 4.0, 100.0)]
    found = merge_models("lawa", Models(tasks, names=names), {"k": 2})
    assert found["w"].tolist() == [3.0]
    assert merge("lawa", np.array([[3], [6]], np.float32)).tolist() == [4.5]


def test_lawa_leaves_what_only_older_checkpoints_have() -> None:
    one, two = np.ones(2, np.float32), np.full(2, 2, np.float32)
    found = merge_models("lawa", Models([{"v": one, "w": one}, {"w": two}]), {"k": 1})
    assert found["v"].tolist() == [0, 0] and found["w"].tolist() == [2, 2]


def test_natural_order() -> None:
    names = ["b2", "b10", "a", "10", "9", "b2c", "b02"]
    assert [names[i] for i in natural_order(names)] == ["9", "10", "a", "b02", "b2", "b2c", "b10"]


def test_linear_is_the_task_vector() -> None:
    tau = np.array([[1, -2, 0.5]], np.float32)
    assert merge("linear", tau).tolist() == [1.0, -2.0, 0.5]


def test_magnitude_by_hand() -> None:
    tau = np.array([[4, -3, 0.5, 2], [-1, 5, 2, 0.5]], np.float32)
    assert merge("magnitude", tau, density=0.5).tolist() == [3.0, 2.0, 2.0, 2.0]


@pytest.mark.parametrize("density", [0.05, 0.2, 1])
def test_magnitude_equals_the_flat_computation(density: float) -> None:
    made = random_models()
    wanted = oracle_merge.total(oracle_merge.trimmed(made.tasks, density))
    close(merge_models("magnitude", made, {"density": density}), wanted)


def test_magnitude_per_tensor_trims_every_tensor_by_itself() -> None:
    made, found = random_models(), {}
    for tensor in SHAPES:
        alone = [{tensor: task[tensor]} for task in made.tasks if tensor in task]
        found.update(oracle_merge.total(oracle_merge.trimmed(alone, 0.3, 1)))
    close(merge_models("magnitude", made, {"density": 0.3, "per_tensor": 1}), found)


@pytest.mark.parametrize("mean", [0, 1])
def test_ties_equals_the_flat_computation(mean: int) -> None:
    """`merge_models` makes one model: there, the mean is the default."""
    made = random_models()
    wanted = oracle_merge.ties(made.tasks, 0.2, bool(mean))
    close(merge_models("ties", made, {} if mean else {"mean": 0}), wanted)


def test_ties_per_tensor_trims_every_tensor_by_itself() -> None:
    made = random_models(3, lacking=False)
    found = merge_models("ties", made, {"per_tensor": 1})
    for tensor in SHAPES:
        wanted = oracle_merge.ties([{tensor: task[tensor]} for task in made.tasks], 0.2, True, 1)
        close({tensor: found[tensor]}, wanted)


def test_emr_by_hand() -> None:
    """Mean above 0, below, 0 (which is -1), no one on gamma's side, all zero."""
    tau = np.array([[3, 1, 1, 0, 0], [2, -4, -1, 0, 0], [-1, 2, 0, -2, 0]], np.float32)
    assert merge("emr", tau).tolist() == [3.0, -4.0, -1.0, -2.0, 0.0]


def test_emr_equals_the_whole_computation() -> None:
    made = random_models()
    close(merge_models("emr", made), oracle_merge.emr(made.tasks))


def test_model_stock_by_hand() -> None:
    """Sixty degrees: cos = 1/2, t = 2/3. A right angle: t = 0, the base."""
    tau = np.array([[2, 0], [1, 3**0.5]], np.float32)
    np.testing.assert_allclose(merge("model_stock", tau), [1.0, 3**-0.5], rtol=1e-6)
    assert merge("model_stock", np.eye(2, dtype=np.float32)).tolist() == [0, 0]


def test_model_stock_where_cosines_are_not_defined() -> None:
    assert ratio(np.array([[0.0]])) == 1  # one task
    assert ratio(np.array([[4.0, -4.0], [-4.0, 4.0]])) == 0  # opposed
    assert ratio(np.zeros((2, 2))) == 1  # both zero
    assert ratio(np.array([[1.0, 0], [0, 0]])) == 0  # one of them


def test_model_stock_equals_the_whole_computation() -> None:
    made = random_models()
    shared = {n: np.ones(s, np.float32) for n, s in SHAPES.items()}
    near = [{n: tau + shared[n] for n, tau in task.items()} for task in made.tasks]
    for tasks in (made.tasks, near, [*near[:2], {n: 0 * tau for n, tau in near[0].items()}]):
        wanted = oracle_merge.model_stock(tasks)
        close(merge_models("model_stock", Models(tasks, block=50)), wanted)


def consensus_models(dtype: str) -> Models:
    made = random_models(4, lacking=False, dtype=dtype, weights=[1, 1, 2, -1])
    rng = np.random.default_rng(9)
    bases = {
        n: rng.integers(-200, 200, s).astype("f4") * np.float32(1 / 64) for n, s in SHAPES.items()
    }
    made.base = bases
    return made


def test_consensus_by_hand() -> None:
    """Two tasks want the 4 that is 2 + 2, one the 3 that is its own, none the 4 of four ones."""
    tau = np.array([[2, 3, 1], [2, 0, 1], [0, 0, 1], [0, 0, 1]], np.float32)
    assert [merge("consensus", tau, k=k).tolist() for k in range(4)] == [
        [4, 3, 4],
        [4, 3, 0],
        [4, 0, 0],
        [0, 0, 0],
    ]


@pytest.mark.parametrize("dtype", ["F32", "BF16"])
@pytest.mark.parametrize("k", [0, 1, 2, 5])
def test_consensus_equals_the_whole_computation(dtype: str, k: int) -> None:
    """Over the weighted vectors, by masks of the vectors as they are."""
    made = consensus_models(dtype)
    scaled = [
        {n: np.float32(weight) * tau for n, tau in task.items()}
        for weight, task in zip(made.weights, made.tasks, strict=True)
    ]
    over = oracle_merge.total(scaled)
    wanted = oracle_merge.consensus(made.tasks, over, made.base, dtype == "BF16", k, 0.4)
    close(merge_models("consensus", made, {"k": k, "lam": 0.4}), wanted)


def test_consensus_over_ties_takes_the_sum_of_the_chosen_values() -> None:
    made = consensus_models("F32")
    made.weights = [1] * 4
    made = replace(made)
    over = oracle_merge.ties(made.tasks, 0.2, mean=False)
    wanted = oracle_merge.consensus(made.tasks, over, made.base, False, 2, 0.5)
    close(merge_models("consensus+ties", made), wanted)


def test_consensus_counts_only_weights_that_change() -> None:
    """1 + 2^-10 is 1 in bf16: what no mask can select, no task wants."""
    tasks = [{"w": np.array([2.0**-11, 1], np.float32)}] * 2
    made = Models(tasks, base={"w": np.ones(2, np.float32)}, dtype="BF16")
    assert merge_models("consensus", made)["w"].tolist() == [0, 2]


@given(
    st.integers(1, 6).flatmap(
        lambda tasks: st.lists(
            st.lists(st.integers(-3, 3), min_size=5, max_size=5), min_size=tasks, max_size=tasks
        )
    )
)
def test_small_whole_numbers(rows: list[list[int]]) -> None:
    """Ties, zeros and sums that cancel, in blocks of two."""
    tasks = [{"w": np.array(row, np.float32)} for row in rows]
    made = Models(tasks, block=2)
    close(merge_models("emr", made), oracle_merge.emr(tasks))
    close(merge_models("model_stock", made), oracle_merge.model_stock(tasks))
    close(merge_models("ties", made), oracle_merge.ties(tasks, 0.2, True))
    base = {"w": np.zeros(5, np.float32)}
    over = oracle_merge.total(tasks)
    for k in (1, 2):
        wanted = oracle_merge.consensus(tasks, over, base, False, k, 0.5)
        close(merge_models("consensus", made, {"k": k}), wanted)
