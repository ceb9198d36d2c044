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


@pytest.mark.parametrize("by", [1, 2])
def test_slerp_of_rows_and_columns(by: int) -> None:
    def formula(base: F64, tau: list[F64]) -> F64:
        if base.ndim != 2:
            return flat(lambda a, b: slerp(0.3, a, b) - a)(base, base + tau[0])
        a, b = (x if by == 1 else x.T for x in (base, base + tau[0]))
        found = np.stack([slerp(0.3, *rows) for rows in zip(a, b, strict=True)])
        return np.asarray((found if by == 1 else found.T) - base)

    check("slerp", models(1), formula, t=0.3, by=by, straight=1)


def test_model_stock_of_rows() -> None:
    def formula(_: F64, tau: list[F64]) -> F64:
        x = np.stack(tau)
        rows = x.reshape(3, -1, x.shape[-1]) if x.ndim > 2 else x.reshape(3, 1, -1)
        made = np.empty(rows.shape[1:])
        for i, three in enumerate(rows.swapaxes(0, 1)):
            unit = three / np.linalg.norm(three, axis=1, keepdims=True)
            cos = max(0, (unit @ unit.T)[np.triu_indices(3, 1)].mean())
            made[i] = 3 * cos / (1 + 2 * cos) * three.mean(0)
        return made.reshape(tau[0].shape)

    alike = models()
    common = random_models(1, 5, lacking=False).tasks[0]
    tasks = [{n: tau + common[n] for n, tau in task.items()} for task in alike.tasks]
    check("model_stock", replace(alike, tasks=tasks), formula, by_row=1)


def largest(x: F64, share: float) -> F64:
    return np.asarray(x * (np.abs(x) >= np.sort(np.abs(x), None)[-max(1, int(x.size * share))]))


def regained(whole: F64, left: F64) -> F64:
    return np.asarray(left * np.abs(whole).sum() / np.abs(left).sum())


def test_ties_that_give_lengths_back() -> None:
    def formula(_: F64, tau: list[F64]) -> F64:
        kept = np.stack([regained(x, largest(x, 0.4)) for x in tau])
        agree = np.sign(kept) == np.sign(kept.sum(0))
        return np.asarray((kept * agree).sum(0) / np.maximum(agree.sum(0), 1))

    check("ties", models(), formula, density=0.4, mean=1, per_tensor=1, rescale=1)


def test_breadcrumbs_that_give_lengths_back() -> None:
    def formula(_: F64, tau: list[F64]) -> F64:
        return np.asarray(sum(regained(x, largest(x, 0.4)) for x in tau))

    check("breadcrumbs", models(), formula, keep=0.4, gamma=0, restore=1)
    given = models()
    plain = merge_models("breadcrumbs+tsv", given, {"keep": 0.4})
    again = merge_models("breadcrumbs+tsv", given, {"keep": 0.4, "restore": 1})
    assert np.abs(again["a.weight"]).sum() > np.abs(plain["a.weight"]).sum()


def test_della_that_divides_by_nothing() -> None:
    given = models(1)
    for tensor, tau in merge_models("della", given, {"keep": 0.5, "divide": 0}).items():
        assert ((tau == 0) | (tau == given.tasks[0][tensor])).all()
        assert tau.any()


@pytest.mark.parametrize("per_tensor", [0, 1])
@pytest.mark.parametrize(("r", "bound"), [(0, 0.2), (0.1, 0.2), (0.5, 40)])
def test_ram(r: float, bound: float, per_tensor: int) -> None:
    """Each task changes about a third of the weights; one lacks a tensor."""
    given = random_models(3, 29)
    rng = np.random.default_rng(4)
    tasks = [
        {n: (x * (rng.random(x.shape) < 0.3)).astype("f4") for n, x in task.items()}
        for task in given.tasks
    ]
    epsilon, names = 0.05, sorted({n for task in tasks for n in task})
    zeros = {n: np.zeros(SHAPES[n]) for n in names}
    whole = [{n: task.get(n, zeros[n]).astype("f8") for n in names} for task in tasks]
    active = [{n: np.abs(task[n]) > epsilon for n in names} for task in whole]
    count = {n: sum(a[n].astype(int) for a in active) for n in names}
    wanted = {n: np.zeros(SHAPES[n]) for n in names}
    for task, mine in zip(whole, active, strict=True):
        for n in names:
            seen = [n] if per_tensor else names
            own = sum((mine[m] & (count[m] == 1)).sum() for m in seen)
            shared = sum((mine[m] & (count[m] > 1)).sum() for m in seen)
            factor = 1 + r * min(shared / own if own else 0, bound)
            part = np.where(count[n] == 1, factor, 1 / np.maximum(count[n], 1)) * task[n]
            wanted[n] += part * mine[n]
    options = {"epsilon": epsilon, "r": r, "bound": bound, "per_tensor": per_tensor}
    found = merge_models("ram", replace(given, tasks=tasks, block=7), options)
    close(found, wanted, atol=1e-6)
