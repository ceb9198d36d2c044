"""Methods on whole matrices, and what stands before and after: against float64 computations."""

from __future__ import annotations

import tracemalloc
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from taskstore.errors import OptionError
from taskstore.merging.methods import MERGES, make
from taskstore.merging.methods.lines import depths
from tests.support import oracle_matrices as oracle
from tests.support import oracle_merge
from tests.support.blocks import Models, merge, merge_models, random_models

WHOLE = sorted(name for name, method in MERGES.items() if method.INFO.whole)


def near(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Every tensor within 1e-5 of its norm."""
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert found[name].dtype == np.float32
        assert np.linalg.norm(found[name] - value) <= 1e-5 * np.linalg.norm(value), name


@pytest.mark.parametrize("tasks", [1, 2, 4])
@pytest.mark.parametrize("ridge", [1e-8, 0.1, 1])
def test_wudi_is_the_least_squares_solution(tasks: int, ridge: float) -> None:
    made = random_models(tasks)
    near(merge_models("wudi", made, {"ridge": ridge}), oracle.wudi(made.tasks, ridge))
    near(merge_models("actmat", made, {"ridge": ridge}), oracle.actmat(made.tasks, ridge))


@pytest.mark.parametrize(("ridge", "even"), [(0.3, 0.5), (3, 0), (0.05, 1)])
def test_kron_is_the_solution_of_its_equations(ridge: float, even: float) -> None:
    made = random_models(3)
    found = merge_models("kron", made, {"ridge": ridge, "even": even})
    near(found, oracle.kron(made.tasks, ridge, even))


def test_kron_takes_a_long_side_evenly() -> None:
    """Tables of embeddings: rows of their own inputs, and no Gram matrix of all tokens."""
    random = np.random.default_rng(7)
    tasks = [{"w": random.normal(size=(100, 3)).astype("f4")} for _ in range(2)]
    tall = merge_models("kron", Models(tasks), {"even": 0})["w"]
    flat = merge_models("kron", Models([{"w": t["w"].T.copy()} for t in tasks]), {"even": 0})["w"]
    np.testing.assert_allclose(tall, flat.T, rtol=1e-5, atol=1e-6)
    gram = [
        3 * v.T @ v / np.vdot(v, v) + 0.3 * np.eye(3) for v in (t["w"].astype("f8") for t in tasks)
    ]
    wanted = sum(t["w"] @ g for t, g in zip(tasks, gram, strict=True)) @ np.linalg.inv(sum(gram))
    np.testing.assert_allclose(tall, wanted, rtol=1e-5, atol=1e-6)
    assert MERGES["kron"]().matrix_bytes((100_000, 100), 2) < 20 * 8 * 100_000 * 100


def test_wudi_in_steps_is_what_adam_does() -> None:
    made = random_models(3)
    options = {"steps": 30, "rate": 1e-3}
    near(merge_models("wudi", made, options), oracle.wudi_steps(made.tasks, 30, 1e-3))


def test_wudi_has_no_gradient_at_its_closed_form() -> None:
    """Below 1e-5 of the gradient at the sum, and the steps end between both."""
    vectors = [np.asarray(task["a.weight"], np.float64) for task in random_models(4).tasks]
    tasks = [{"w": v.astype("f4")} for v in vectors]

    def slope(tau: Any) -> float:
        at = torch.from_numpy(np.asarray(tau, np.float64)).requires_grad_()
        oracle.wudi_loss(at, [torch.from_numpy(v) for v in vectors]).backward()
        return float(torch.linalg.norm(at.grad))

    start = slope(sum(vectors))
    assert slope(merge_models("wudi", Models(tasks), {"ridge": 1e-8})["w"]) < 1e-5 * start
    assert 1e-2 * start < slope(merge_models("wudi", Models(tasks))["w"]) < 0.5 * start
    after = slope(merge_models("wudi", Models(tasks), {"steps": 50, "rate": 1e-2})["w"])
    assert 1e-5 * start < after < start


def test_wudi_leaves_other_tensors_at_the_base_where_it_is_asked_to() -> None:
    made = random_models(3)
    found = merge_models("wudi", made, {"others": 0})
    assert not found["b"].any() and found["a.weight"].any()


def test_wudi_of_a_task_that_left_the_matrix_alone() -> None:
    tau = random_models(1).tasks[0]["a.weight"]
    found = merge_models("wudi", Models([{"w": tau}, {"w": 0 * tau}]))
    np.testing.assert_allclose(found["w"], tau, atol=1e-5)


def test_actmat_takes_the_mean_of_embeddings_and_heads() -> None:
    tau = random_models(2).tasks
    for name in ("model.embed_tokens.weight", "lm_head.weight", "wte.weight", "shared.weight"):
        found = merge_models("actmat", Models([{name: task["a.weight"]} for task in tau]))
        mean = (tau[0]["a.weight"] + tau[1]["a.weight"]) / 2
        np.testing.assert_allclose(found[name], mean, rtol=1e-6)


def test_iso_c_equals_the_whole_computation() -> None:
    made = random_models()
    near(merge_models("iso_c", made), oracle.iso_c(made.tasks))


@pytest.mark.parametrize("common", [0.3, 0.8, 1])
def test_iso_cts_equals_the_whole_computation(common: float) -> None:
    made = random_models(3)
    near(merge_models("iso_cts", made, {"common": common}), oracle.iso_cts(made.tasks, common))


@pytest.mark.parametrize("tasks", [1, 3, 11])
def test_iso_cts_of_any_number_of_tasks(tasks: int) -> None:
    """However a small rank is shared out, the singular values are equal."""
    found = merge_models("iso_cts", random_models(tasks), {"common": 0.4})
    s = np.linalg.svd(found["a.weight"], compute_uv=False)
    assert s.min() > 0.999 * s.max()


@pytest.mark.parametrize(("rank", "density"), [(0.5, 0.5), (0.1, 0.2), (1, 1)])
def test_lors_equals_the_whole_computation(rank: float, density: float) -> None:
    made = random_models()
    found = merge_models("lors", made, {"rank": rank, "density": density})
    near(found, oracle.lors(made.tasks, rank, density))


@pytest.mark.parametrize("floor", [0.1, 1])
@pytest.mark.parametrize("name", ["sum", "ties", "tsv"])
def test_svc_equals_the_whole_computation(name: str, floor: float) -> None:
    made = random_models(3, lacking=False)
    merged = merge_models(name, made)
    near(merge_models(f"{name}+svc", made, {"floor": floor}), oracle.svc(made.tasks, merged, floor))


def test_svc_shortens_what_tasks_share() -> None:
    """Two tasks with the same direction: the sum of 2 + 2 has 2 again; what one has is left."""
    one = np.diag([2.0, 0]).astype(np.float32)
    found = merge_models("sum+svc", Models([{"w": one}, {"w": one}]), {"floor": 1})
    np.testing.assert_allclose(found["w"], one, atol=1e-6)
    other = np.diag([0, 3.0]).astype(np.float32)
    found = merge_models("sum+svc", Models([{"w": one}, {"w": other}]), {"floor": 1})
    np.testing.assert_allclose(found["w"], one + other, atol=1e-6)


@pytest.mark.parametrize("name", ["sum", "ties", "wudi", "consensus+ties"])
def test_lines_equals_the_whole_computation(name: str) -> None:
    made = random_models(3, lacking=False)
    merged = merge_models(name, made)
    near(merge_models(f"lines+{name}", made, {"beta": 0.7}), oracle.lines(made.tasks, merged, 0.7))


def test_lines_over_a_sum_starts_at_one_over_the_tasks() -> None:
    tau = np.ones(2, np.float32)
    tasks = [{f"h.{i}.w": tau for i in range(3)} for _ in range(4)]
    found = merge_models("lines+sum", Models(tasks), {"beta": 0.5})
    assert [float(found[f"h.{i}.w"][0]) for i in range(3)] == [1.0, 2.0, 3.0]


def test_depths_are_of_each_stack() -> None:
    names = ["encoder.block.0.a", "encoder.block.2.a", "decoder.block.1.a", "decoder.block.4.b",
             "layers.3.experts.7.w", "layers.6.x", "head.w", "one.0.w", "0.w", "4.w"]  # fmt: skip
    assert depths(names) == {
        "encoder.block.0.a": 0,
        "encoder.block.2.a": 1,
        "decoder.block.1.a": 0.25,
        "decoder.block.4.b": 1,
        "layers.3.experts.7.w": 0.5,
        "layers.6.x": 1,
        "0.w": 0,
        "4.w": 1,
    }


def test_lines_of_a_model_without_blocks_is_refused() -> None:
    with pytest.raises(OptionError, match=r"no tensor is of a numbered block"):
        merge("lines+sum", np.ones((2, 3), np.float32))


@pytest.mark.parametrize("quantile", [0.5, 0.9])
@pytest.mark.parametrize("name", ["sum", "emr", "wudi"])
def test_trust_region_equals_the_whole_computation(name: str, quantile: float) -> None:
    made = random_models(3)
    kept = oracle.trusted(made.tasks, quantile)
    wanted = {"sum": oracle_merge.total, "emr": oracle_merge.emr, "wudi": oracle.wudi}[name](kept)
    near(merge_models(f"trust_region+{name}", made, {"quantile": quantile}), wanted)


def test_trust_region_by_hand() -> None:
    """Omega is 0, 12, 2, 0: a quarter of the weights goes, the one where both are large."""
    tau = np.array([[5, 2, 1, 0], [0, 3, -1, 9]], np.float32)
    assert merge("trust_region+sum", tau, quantile=0.75).tolist() == [5, 0, 0, 9]
    assert merge("trust_region+sum", tau, quantile=1).tolist() == [5, 5, 0, 9]


@pytest.mark.parametrize("bits", [2, 3, 8])
@pytest.mark.parametrize("name", ["sum", "ties", "wudi"])
def test_tvq_equals_the_whole_computation(name: str, bits: int) -> None:
    made = random_models(3)
    rounded = oracle.quantised(made.tasks, bits)
    wanted = {
        "sum": oracle_merge.total(rounded),
        "ties": oracle_merge.ties(rounded, 1, True),
        "wudi": oracle.wudi(rounded),
    }[name]
    options = {"bits": bits, **({"density": 1} if name == "ties" else {})}
    near(merge_models(f"tvq+{name}", made, options), wanted)


def test_tvq_leaves_a_constant_tensor() -> None:
    tau = np.full((2, 3), 0.3, np.float32)
    np.testing.assert_array_equal(merge("tvq+average", tau), tau[0])


@pytest.mark.parametrize("density", [0.1, 0.4, 1])
def test_obim_equals_the_whole_computation(density: float) -> None:
    rng = np.random.default_rng(6)
    made = random_models(3)
    grams = []
    for _ in made.tasks:
        x = {
            n: rng.standard_normal((30, made.tasks[0][n].shape[1]))
            for n in ("a.weight", "c.weight")
        }
        grams.append({n: (v.T @ v).astype("f4") for n, v in x.items()})
    made = replace(made, statistics={"gram": grams})
    near(merge_models("obim", made, {"density": density}), oracle.obim(made.tasks, grams, density))


@pytest.mark.parametrize("density", [0.05, 0.3, 1])
def test_localize_and_stitch_equals_the_whole_computation(density: float) -> None:
    made = random_models()
    found = merge_models("localize_and_stitch", made, {"density": density})
    near(found, oracle.stitched(made.tasks, density))


def test_parts_work_in_the_order_of_the_name() -> None:
    """Before: the left one first. After: the one next to the method first."""
    made = random_models(3, lacking=False)
    options = {"quantile": 0.8, "bits": 3}
    found = merge_models("tvq+trust_region+sum", made, options)
    near(found, oracle_merge.total(oracle.trusted(oracle.quantised(made.tasks, 3), 0.8)))
    found = merge_models("trust_region+wudi+svc+lines", made, {"quantile": 0.8})
    wudi = merge_models("trust_region+wudi", made, {"quantile": 0.8})
    near(found, oracle.lines(made.tasks, oracle.svc(made.tasks, wudi, 0.1), 0.5))


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize("shape", [(192, 320), (320, 192)])
def test_a_matrix_takes_no_more_memory_than_is_said(name: str, shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(3)
    tasks = [{"w": rng.standard_normal(shape, np.float32)} for _ in range(3)]
    gram = np.eye(shape[1], dtype=np.float32)
    models = Models(tasks, statistics={"gram": [{"w": gram}] * 3}, block=4096)
    method = make(name)
    method.matrices = frozenset(["w"])
    method.fit(models)
    models = replace(models, weighted=not method.weighs)
    whole = models.whole("w")
    tracemalloc.start()
    method.merge_whole(whole)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak <= method.matrix_bytes(shape, 3)


def test_task_vector_bases_are_what_adam_finds() -> None:
    """Two of four tasks are nearly one: they share a base, and count together as one."""
    made = random_models(4, lacking=False)
    twin = {n: tau + np.float32(0.01) * made.tasks[1][n] for n, tau in made.tasks[0].items()}
    tasks = [made.tasks[0], twin, *made.tasks[2:]]
    models = replace(made, tasks=tasks)
    found = merge_models("task_vector_bases", models, {"bases": 3, "seed": 5})
    wanted = oracle.bases(tasks, 3, 5)
    near(found, wanted)
    with pytest.raises(OptionError, match="5 bases stand for 4 task vectors; give fewer"):
        merge_models("task_vector_bases", models, {"bases": 5})
