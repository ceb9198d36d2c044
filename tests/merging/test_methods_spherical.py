"""The methods of mergekit's recipes against their formulas, on whole tensors in float64."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from taskstore.errors import InputError, OptionError
from taskstore.merging.methods import make
from tests.support.blocks import SHAPES, Models, close, merge_models, random_models

F64 = NDArray[np.float64]
Formula = Callable[[F64, list[F64]], F64]


def models(tasks: int = 3, weights: Sequence[float] = ()) -> Models:
    rng = np.random.default_rng(17)
    base = {n: rng.standard_normal(s).astype("f4") for n, s in SHAPES.items()}
    return replace(
        random_models(tasks, 23, lacking=False), base=base, weights=list(weights), block=33
    )


def check(name: str, given: Models, formula: Formula, **options: float) -> None:
    """`formula` makes tau of theta_0 and the tau_t, in float64."""
    wanted = {
        n: formula(given.base[n].astype("f8"), [task[n].astype("f8") for task in given.tasks])
        for n in given.tensors
    }
    close(merge_models(name, given, options), wanted, atol=5e-6)


def slerp(t: float, a: F64, b: F64) -> F64:
    """Of two flat vectors that are not parallel."""
    angle = np.arccos(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
    return np.asarray((np.sin((1 - t) * angle) * a + np.sin(t * angle) * b) / np.sin(angle))


def flat(function: Callable[..., F64]) -> Callable[..., F64]:
    return lambda *parts: function(*(p.reshape(-1) for p in parts)).reshape(parts[0].shape)


@pytest.mark.parametrize("t", [0.0, 0.3, 1.0])
def test_slerp(t: float) -> None:
    def formula(base: F64, tau: list[F64]) -> F64:
        return flat(lambda a, b: slerp(t, a, b) - a)(base, base + tau[0])

    check("slerp", models(1), formula, t=t)


def test_slerp_of_near_directions_is_straight() -> None:
    given = models(1)
    small = [{n: tau * np.float32(1e-3) for n, tau in given.tasks[0].items()}]
    check("slerp", replace(given, tasks=small), lambda _, tau: 0.25 * tau[0], t=0.25)


@pytest.mark.parametrize("by", [0, 1, 2])
def test_nuslerp(by: int) -> None:
    def formula(_: F64, tau: list[F64]) -> F64:
        a, b = tau
        if not by or a.ndim != 2:
            return flat(lambda x, y: slerp(0.75, x, y))(a, b)
        if by == 2:
            return np.stack([slerp(0.75, *pair) for pair in zip(a.T, b.T, strict=True)], 1)
        return np.stack([slerp(0.75, *pair) for pair in zip(a, b, strict=True)])

    check("nuslerp", models(2, [1, 3]), formula, by=by)


def test_nuslerp_needs_weights_with_a_sum() -> None:
    with pytest.raises(InputError, match="nuslerp's two models add up to 0"):
        merge_models("nuslerp", models(2, [1, -1]))


def mean_direction(weights: Sequence[float], points: list[F64]) -> F64:
    length = sum(w * np.linalg.norm(p) for w, p in zip(weights, points, strict=True))
    u = sum(w * p / np.linalg.norm(p) for w, p in zip(weights, points, strict=True))
    return np.asarray(length * u / np.linalg.norm(u))


def test_multislerp() -> None:
    def formula(_: F64, tau: list[F64]) -> F64:
        return mean_direction([0.5, 0.3, 0.2], tau)

    check("multislerp", models(3, [5, 3, 2]), formula)

    def whole(_: F64, tau: list[F64]) -> F64:
        return mean_direction([5, 3, 2], tau)

    check("multislerp", models(3, [5, 3, 2]), whole, normalize=0)


def test_multislerp_of_the_models_and_the_base() -> None:
    def formula(base: F64, tau: list[F64]) -> F64:
        return mean_direction([0.4, 0.3, 0.3], [base, *(base + t for t in tau)]) - base

    check("multislerp", models(2, [3, 3]), formula, base_weight=4)


def karcher(points: list[F64]) -> F64:
    units = [p / np.linalg.norm(p) for p in points]
    m = sum(units) / np.linalg.norm(np.asarray(sum(units)))
    for _ in range(200):
        step = np.zeros_like(m)
        for u in units:
            angle = np.arccos(np.clip(np.vdot(m, u), -1, 1))
            step += angle / np.sin(angle) * (u - np.vdot(m, u) * m) / len(units)
        size = np.linalg.norm(step)
        if size < 1e-14:
            break
        m = np.cos(size) * m + np.sin(size) * step / size
    return np.asarray(m * np.mean([np.linalg.norm(p) for p in points]))


@pytest.mark.parametrize("base_weight", [0, 1])
def test_karcher(base_weight: int) -> None:
    def formula(base: F64, tau: list[F64]) -> F64:
        return karcher([base] * base_weight + [base + t for t in tau]) - base

    check("karcher", models(), formula, steps=300, tol=0, base_weight=base_weight)


def test_nearswap_is_the_interpolation_of_near_weights() -> None:
    def formula(base: F64, tau: list[F64]) -> F64:
        theta = base + tau[0]
        a = np.minimum(1, 0.4 / np.abs(tau[0]))
        return a * theta + (1 - a) * base - base

    check("nearswap", models(1), formula, t=0.4)


def test_passthrough_scales_the_model() -> None:
    check("passthrough", models(1), lambda base, tau: -0.5 * (base + tau[0]) - base, scale=-0.5)
    check("passthrough", models(1), lambda _, tau: tau[0])


def test_sce() -> None:
    def formula(_: F64, tau: list[F64]) -> F64:
        x = np.stack(tau).reshape(3, -1)
        chosen = np.argsort(x.var(0))[-max(1, int(x.shape[1] * 0.3)) :]
        kept = np.zeros_like(x)
        kept[:, chosen] = x[:, chosen]
        w = (kept**2).mean(1) / (kept**2).mean(1).sum()
        agree = np.sign(kept) == np.where(kept.sum(0) >= 0, 1, -1)
        total = (w[:, None] * agree).sum(0)
        merged = (w[:, None] * kept * agree).sum(0) / np.where(total == 0, 1, total)
        return np.asarray(merged.reshape(tau[0].shape))

    check("sce", models(), formula, topk=0.3)


@pytest.mark.parametrize(("keep", "gamma"), [(0.6, 0.1), (0.9, 0.3), (0.5, 0)])
def test_breadcrumbs(keep: float, gamma: float) -> None:
    def formula(_: F64, tau: list[F64]) -> F64:
        total = np.zeros(tau[0].size)
        for x in (t.reshape(-1) for t in tau):
            top = min(int(x.size * gamma), x.size - int(x.size * keep))
            order = np.argsort(np.abs(x))
            chosen = order[x.size - int(x.size * keep) - top : x.size - top]
            total[chosen] += x[chosen]
        return total.reshape(tau[0].shape)

    check("breadcrumbs", models(), formula, keep=keep, gamma=gamma)


def test_arcee_fusion() -> None:
    def formula(base: F64, tau: list[F64]) -> F64:
        rows = base.reshape(-1, base.shape[-1])
        change = tau[0].reshape(rows.shape)
        p, q = (np.exp(x) / np.exp(x).sum(1, keepdims=True) for x in (rows + change, rows))
        score = np.abs(change) * (p * np.log(p / q)).sum(1, keepdims=True)
        low, middle, high = np.quantile(score, [0.25, 0.5, 0.75], method="lower")
        return np.asarray(change * (score > middle + 1.5 * (high - low))).reshape(base.shape)

    check("arcee_fusion", models(1), formula)


def test_della_keeps_large_values_more_often_and_their_expectation() -> None:
    """Rank r of 100 is kept with 0.5 - 0.3 + 0.6 r / 99, and divided by that."""
    rng = np.random.default_rng(3)
    rows = rng.standard_normal((3000, 100)).astype("f4")
    given = Models([{"w.weight": rows}], block=1 << 16)
    found = merge_models("della", given, {"keep": 0.5, "epsilon": 0.3})["w.weight"]
    rank = np.abs(rows).argsort(1).argsort(1)
    chance = 0.5 - 0.3 + 0.6 * rank / 99
    kept = found != 0
    np.testing.assert_allclose(found[kept], (rows / chance)[kept], rtol=1e-5)
    for r in (0, 50, 99):
        assert abs(kept[rank == r].mean() - chance[rank == r][0]) < 0.03
    again = merge_models("della", given, {"keep": 0.5, "epsilon": 0.3, "seed": 1})["w.weight"]
    assert (again != found).any()


def test_a_value_per_task() -> None:
    """Each task keeps its own share; an option that has one value for all says so."""
    given = models(2)
    method = make("breadcrumbs", {"gamma": 0})
    method.vary("keep", [0.5, 1.0])
    method.fit(given)
    (block,) = replace(given, block=1000).slices("b")
    half, whole = (task["b"] for task in given.tasks)
    kept = np.where(np.abs(half) >= np.sort(np.abs(half))[35], half, 0)
    np.testing.assert_allclose(method.merge(block), kept + whole, rtol=1e-6)
    ties = make("ties", {"per_tensor": 1})
    with pytest.raises(OptionError, match="option 'mean' needs one value for all models here"):
        ties.vary("mean", [0, 1])
