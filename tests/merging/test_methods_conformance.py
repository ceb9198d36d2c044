"""What every merge method keeps to, whatever it computes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from taskstore.merging.methods import MERGES, info_of, make, options_of
from tests.support.blocks import SHAPES, Models, merge_models, random_models

F32 = NDArray[np.float32]
EVERY = [
    *MERGES,
    *("dare+ties", "consensus+ties", "consensus+lsq", "dare+regmean", "dare+tsv"),
    *("trust_region+wudi+lines", "trust_region+ties", "tvq+tsv", "tvq+emr", "dare+trust_region"),
    *("breadcrumbs+ties", "della+ties", "della+tsv", "breadcrumbs+wudi"),
    *("lines+ties", "ties+svc", "regmean+lines", "consensus+lines", "iso_c+svc+lines"),
]
ONE = [name for name in EVERY if info_of(name).most == 1]
RANDOM = [name for name in EVERY if name.startswith(("dare", "della"))]
CHECKPOINTS = ["lawa", "obim", "task_vector_bases"]  # the tasks' order counts


def count_of(name: str) -> int:
    return info_of(name).most or 4


def measured(models: Models, seed: int = 3) -> Models:
    """With all that can be measured, for any method."""
    rng = np.random.default_rng(seed)

    def every(make_one: Callable[[Any], F32], names: Any = SHAPES) -> list[dict[str, F32]]:
        return [{n: make_one(SHAPES[n]) for n in names} for _ in models.tasks]

    def gram(shape: Any) -> F32:
        x = rng.standard_normal((50, shape[1]))
        return (x.T @ x / 50).astype("f4")

    diagonal = every(lambda shape: (rng.standard_normal(shape) ** 2).astype("f4"))
    statistics: Mapping[str, Any] = {
        "fisher": diagonal,
        "hessian": diagonal,
        "hessian_base": diagonal[:1],
        "gram": every(gram, ["a.weight", "c.weight"]),
    }
    return replace(models, statistics=statistics)


def family(name: str, *, lacking: bool = True, **changes: Any) -> Models:
    """Four fine-tunes in steps as bf16 has them, so that values repeat and sums are exact."""
    models = random_models(count_of(name), 11, lacking, **changes)
    tasks = [
        {n: np.round(tau * 4) * np.float32(1 / 64) for n, tau in task.items()}
        for task in models.tasks
    ]
    return measured(replace(models, tasks=tasks, whole_rows=make(name).rows))


def permuted(models: Models, order: list[int]) -> Models:
    statistics = {
        kind: every if kind.endswith("_base") else [every[t] for t in order]
        for kind, every in models.statistics.items()
    }
    return replace(
        models,
        tasks=[models.tasks[t] for t in order],
        names=[models.names[t] for t in order],
        weights=[models.weights[t] for t in order] if models.weights else (),
        statistics=statistics,
    )


def weights_of(name: str) -> list[float]:
    return [1, 2, 0.5, 1][: count_of(name)] if info_of(name).weights else []


@pytest.mark.parametrize("name", EVERY)
def test_float32_of_the_right_shapes(name: str) -> None:
    models = family(name)
    found = merge_models(name, models)
    assert {n: tau.shape for n, tau in found.items()} == {
        n: SHAPES[n] for n in sorted({n for task in models.tasks for n in task})
    }
    assert all(tau.dtype == np.float32 and np.isfinite(tau).all() for tau in found.values())


@pytest.mark.parametrize("name", EVERY)
def test_blocks_do_not_matter(name: str) -> None:
    models = family(name, weights=weights_of(name))
    found = [merge_models(name, replace(models, block=block)) for block in (1, 7, 64, 10_000)]
    for other in found[1:]:
        for tensor, tau in other.items():
            assert (tau == found[0][tensor]).all(), tensor


@pytest.mark.parametrize("name", [name for name in EVERY if name not in CHECKPOINTS])
def test_the_order_of_tasks_does_not_matter(name: str) -> None:
    models = family(name, weights=weights_of(name))
    order = [t for t in (2, 0, 3, 1) if t < len(models.tasks)]
    found, other = merge_models(name, models), merge_models(name, permuted(models, order))
    for tensor, tau in found.items():
        np.testing.assert_allclose(other[tensor], tau, rtol=1e-5, atol=1e-6, err_msg=tensor)


@pytest.mark.parametrize("name", EVERY)
def test_zeros_give_zeros(name: str) -> None:
    models = family(name)
    tasks = [{n: 0 * tau for n, tau in task.items()} for task in models.tasks]
    for tensor, tau in merge_models(name, replace(models, tasks=tasks)).items():
        assert not tau.any(), tensor


# nothing is trimmed, dropped, left out or held
FULL: dict[str, float] = {"density": 1, "p": 0, "k": 1, "lam": 0, "quantile": 1, "rank": 1}
FULL |= {"beta": 0, "ridge": 1e-8, "keep": 1, "gamma": 0, "epsilon": 0, "t": 1, "topk": 1}
CUTS = ["nearswap", "arcee_fusion"]  # a vector alone, too
ROUNDS = ["tvq", "tvq+tsv", "tvq+emr"]  # not even a vector alone is left as it was
FLATTENS = ["iso_c", "iso_cts", "iso_c+svc+lines"]


@pytest.mark.parametrize(
    "name",
    [n for n in EVERY if not n.startswith("consensus") and n not in (*ROUNDS, *FLATTENS, *CUTS)],
)
def test_one_task_alone_is_its_vector(name: str) -> None:
    models = measured(replace(random_models(1, 5), block=33))
    options = {key: value for key, value in FULL.items() if key in options_of(name)}
    for tensor, tau in merge_models(name, models, options).items():
        wanted = models.tasks[0][tensor]
        np.testing.assert_allclose(tau, wanted, rtol=1e-4, atol=1e-5, err_msg=tensor)


ADDED = {"sum": 4, "magnitude": 4, "dare": 4, "consensus": 4, "consensus+ties": 4, "gradient": 2}
ADDED |= {"task_vector_bases": 2}  # of four tasks
ADDED |= {"breadcrumbs": 4, "della": 4, "trust_region": 4, "lors": 4, "dare+trust_region": 4}


@pytest.mark.parametrize(
    "name",
    [
        n
        for n in EVERY
        if n not in (*ONE, *ROUNDS, *FLATTENS, "svc", "tsv", "dare+tsv", "della+tsv")
    ],
)
def test_equal_tasks(name: str) -> None:
    """Four times the same vector: itself, or more of it where vectors are added up.

    consensus+ties adds up what it chooses, as masks want it; of full rank, tsv cuts vectors off;
    svc over the sum halves no vector that is no matrix.
    """
    factor = ADDED.get(name, 1)
    one, count = random_models(1, 5, lacking=False), count_of(name)
    many = random_models(count, 5, lacking=False)
    models = measured(replace(many, tasks=[*one.tasks] * count, block=33))
    options = {key: value for key, value in FULL.items() if key in options_of(name)}
    if name == "gradient":  # (h + h0) 4 tau / (h0 + 4 h): 2 tau where h0 = 2 h
        half = [{n: np.full(s, v, np.float32) for n, s in SHAPES.items()} for v in (0.5, 1)]
        models.statistics = {"hessian": half[:1] * 4, "hessian_base": half[1:]}
    for tensor, tau in merge_models(name, models, options).items():
        wanted = factor * one.tasks[0][tensor]
        np.testing.assert_allclose(tau, wanted, rtol=1e-4, atol=1e-5, err_msg=tensor)


@pytest.mark.parametrize("name", EVERY)
def test_a_block_is_left_as_it_was(name: str) -> None:
    """Masks are made of the same vectors afterwards; statistics may be mapped from a file."""
    models = family(name)
    method = make(name)
    method.fit(models)
    for tensor in models.tensors:
        for block in models.slices(tensor):
            arrays = [block.tau_SN, block.w0_N, block.theta0_N, block.weight_S, block.rows]
            arrays += block.statistics.values()
            before = [array.copy() for array in arrays]
            merged_N = method.merge(block)
            assert not any(np.shares_memory(merged_N, array) for array in arrays)
            for array, copy in zip(arrays, before, strict=True):
                assert (array == copy).all()


@pytest.mark.parametrize("name", EVERY)
def test_a_scan_gets_functions_of_modules(name: str) -> None:
    """No closure, so that another process could run it."""

    class Looked(Models):
        def blocks(self, function: Any) -> Any:
            parts = [function]
            for part in parts:
                if isinstance(part, partial):
                    parts += [part.func, *part.args, *part.keywords.values()]
                elif callable(part):
                    assert "<" not in part.__qualname__, part
            return super().blocks(function)

    models = family(name)
    make(name).fit(Looked(models.tasks, statistics=models.statistics, whole_rows=models.whole_rows))


@pytest.mark.parametrize("name", EVERY)
def test_fit_goes_over_the_vectors_as_often_as_it_says(name: str) -> None:
    passes = []

    class Counted(Models):
        def blocks(self, function: Any) -> Any:
            passes.append(1)
            return super().blocks(function)

    models, method = family(name), make(name)
    counted = Counted(models.tasks, statistics=models.statistics, whole_rows=models.whole_rows)
    method.fit(counted)
    assert len(passes) == method.passes


def _looks_at_other_tensors(name: str) -> bool:
    """Trims over flat vectors; signs that cancel are decided by all others."""
    named = {option.name for option in info_of(name).options}
    return bool(named & {"density", "quantile", "shallow"})


@pytest.mark.parametrize(
    "name",
    [n for n in EVERY if n not in (*ONE, *CHECKPOINTS) and not _looks_at_other_tensors(n)],
)
def test_a_task_that_lacks_a_tensor_does_not_change_it(name: str) -> None:
    """ "d" is of the first two tasks alone: the others' other tensors cannot show in it."""
    models = family(name)
    other = family(name)
    if len(other.tasks) < 3:
        pytest.skip("it takes no more tasks")
    tasks = [*other.tasks[:2], *({n: -tau for n, tau in t.items()} for t in other.tasks[2:])]
    changed = merge_models(name, replace(other, tasks=tasks))
    found = merge_models(name, models)
    assert (found["d"] == changed["d"]).all()


@pytest.mark.parametrize("name", EVERY)
def test_what_a_manifest_records_makes_the_method_again(name: str) -> None:
    options = options_of(name)
    for value in ({}, {o.name: o.high if o.high < 10 else 7 for o in options.values()}):
        method = make(name, value)
        assert set(method.options) <= set(options)
        again = make(name, method.options)
        assert again.options == method.options
        for merging in (make(name, value, merging=True), make(name, {}, merging=True)):
            assert make(name, merging.options).options == merging.options


@pytest.mark.parametrize("name", EVERY)
def test_a_method_describes_itself(name: str) -> None:
    info = info_of(name)
    assert info.title and info.formula and "\n" not in info.formula
    assert "arXiv" in info.paper or "taskstore" in info.paper
    assert info.least >= 1 and (info.most == 0 or info.most >= info.least)
    for option in info.options:
        assert option.low <= option.default <= option.high and option.help
    assert all(0 <= alpha <= 1 for alpha in info.grid) and info.alpha == 1
