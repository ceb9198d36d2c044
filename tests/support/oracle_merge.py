"""The merge methods on whole models in plain numpy, float64: formulas as they are published.

A model is tensor -> task vector; a task may lack a tensor. Nothing is shared with
`taskstore.merging.methods.registry`, and no formula is written the way it is there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

F64 = NDArray[np.float64]
Model = Mapping[str, Any]
Models = Sequence[Model]


def _each(tasks: Models, function: Callable[[str, list[int], F64], Any]) -> dict[str, F64]:
    """tensor -> function(tensor, tasks that have it, their vectors stacked)."""
    merged = {}
    for name in sorted({name for task in tasks for name in task}):
        having = [t for t, task in enumerate(tasks) if name in task]
        stacked = np.stack([np.asarray(tasks[t][name], np.float64) for t in having])
        merged[name] = np.asarray(function(name, having, stacked), np.float64)
    return merged


def average(tasks: Models, weights: Sequence[float] | None = None) -> dict[str, F64]:
    c = np.asarray(weights if weights is not None else [1] * len(tasks), np.float64)
    return _each(tasks, lambda _, having, tau: np.average(tau, axis=0, weights=c[having]))


def total(tasks: Models) -> dict[str, F64]:
    return _each(tasks, lambda _name, _having, tau: tau.sum(0))


def trimmed(tasks: Models, density: float, more: int = 0) -> list[dict[str, F64]]:
    """Each task with its flat vector's largest values alone; ties at the last one are kept.

    The threshold is `more` places further up: 1 where tensors are trimmed by themselves.
    """
    kept = []
    for task in tasks:
        flat = np.sort(np.concatenate([np.abs(tau).ravel() for tau in task.values()]))
        rank = max(1, flat.size - int(flat.size * density) + more)
        threshold = flat[min(rank, flat.size) - 1]
        kept.append({n: np.where(np.abs(tau) < threshold, 0, tau) for n, tau in task.items()})
    return kept


def ties(tasks: Models, density: float, mean: bool, more: int = 0) -> dict[str, F64]:
    kept = trimmed(tasks, density, more)
    sums = total(kept)
    signs = sum(float(np.sign(value).sum()) for value in sums.values())

    def disjoint(name: str, _having: list[int], tau: F64) -> F64:
        gamma = np.sign(sums[name])
        gamma[gamma == 0] = np.sign(signs)
        gamma = np.where(gamma > 0, 1, -1)  # where all signs cancel: the negative ones
        chosen = np.where(np.sign(tau) == gamma, tau, 0)
        count = np.maximum(1, (chosen != 0).sum(0)) if mean else 1
        return np.asarray(chosen.sum(0) / count)

    return _each(kept, disjoint)


def emr(tasks: Models) -> dict[str, F64]:
    def unified(_name: str, _having: list[int], tau: F64) -> F64:
        gamma = np.where(tau.mean(0) > 0, 1, -1)
        return np.asarray(gamma * np.clip(tau * gamma, 0, None).max(0))

    return _each(tasks, unified)


def model_stock(tasks: Models) -> dict[str, F64]:
    def pulled(_name: str, _having: list[int], tau: F64) -> F64:
        flat = tau.reshape(len(tau), -1)
        if len(flat) == 1:
            return np.asarray(tau[0])
        cosines = [
            a @ b / np.sqrt((a @ a) * (b @ b)) if a.any() and b.any() else float(a.any() == b.any())
            for a, b in combinations(flat, 2)
        ]
        cos, n = max(0.0, sum(cosines) / len(cosines)), len(tau)
        return np.asarray(n * cos / (1 + (n - 1) * cos) * tau.mean(0))

    return _each(tasks, pulled)


def fisher(
    tasks: Models, fishers: Models, weights: Sequence[float], floor: float
) -> dict[str, F64]:
    norms = [
        np.sqrt(sum(float((np.asarray(f, np.float64) ** 2).sum()) for f in own.values())) or 1.0
        for own in fishers
    ]

    def weighted(name: str, having: list[int], tau: F64) -> F64:
        importance = np.stack(
            [weights[t] / norms[t] * np.maximum(fishers[t][name], floor) for t in having]
        )
        return np.asarray((importance * tau).sum(0) / importance.sum(0))

    return _each(tasks, weighted)


def gradient(
    tasks: Models,
    hessians: Models,
    base: Model,
    weights: Sequence[float],
    options: Mapping[str, float],
) -> dict[str, F64]:
    alpha, delta0, s0 = options["alpha"], options["delta0"], options["s0"]

    def matched(name: str, having: list[int], tau: F64) -> F64:
        h0 = s0 * np.asarray(base.get(name, 0.0), np.float64) + delta0
        h = np.stack([weights[t] * np.asarray(hessians[t][name], np.float64) for t in having])
        return np.asarray(alpha * ((h0 + h) / (h0 + alpha * h.sum(0)) * tau).sum(0))

    return _each(tasks, matched)


def regmean(
    tasks: Models, grams: Models, base: Model, weights: Sequence[float], a: float
) -> dict[str, F64]:
    """On weights, as published, and then without the base."""

    def solved(name: str, having: list[int], tau: F64) -> F64:
        if name not in grams[0]:
            return np.asarray(np.average(tau, axis=0, weights=[weights[t] for t in having]))
        w0 = np.asarray(base[name], np.float64)
        size = w0.shape[1]
        off = np.full((size, size), a) + (1 - a) * np.eye(size)
        g = [weights[t] * off * np.asarray(grams[t][name], np.float64) for t in having]
        right = sum(own @ (w0 + vector).T for own, vector in zip(g, tau, strict=True))
        return np.asarray((np.linalg.inv(sum(g)) @ right).T - w0)

    return _each(tasks, solved)


def tsv(tasks: Models) -> dict[str, F64]:
    def polar(x: Any) -> Any:
        """By the eigenvectors of X^T X: X (X^T X)^(-1/2)."""
        values, q = torch.linalg.eigh(x.mT @ x)
        return x @ (q @ torch.diag(values.rsqrt()) @ q.mT)

    def merged(_name: str, _having: list[int], tau: F64) -> F64:
        if tau.ndim != 3:
            return np.asarray(tau.mean(0))
        kept = min(tau.shape[1:]) // len(tau)
        u, s, vt = torch.linalg.svd(torch.from_numpy(tau), full_matrices=False)
        all_u = torch.cat([one[:, :kept] for one in u], 1)
        all_v = torch.cat([one[:kept].mT for one in vt], 1)
        strength = torch.diag(torch.cat([one[:kept] for one in s]))
        return np.asarray((polar(all_u) @ strength @ polar(all_v).mT).numpy())

    return _each(tasks, merged)


def consensus(
    tasks: Models, merged: Model, base: Model, bf16: bool, k: int, lam: float
) -> dict[str, F64]:
    def kept(name: str, _having: list[int], tau: F64) -> F64:
        w0 = torch.from_numpy(np.asarray(base[name], np.float32))
        one = torch.from_numpy(np.asarray(merged[name], np.float32))
        w1 = w0 + one
        live = ((w1.bfloat16() if bf16 else w1) != (w0.bfloat16() if bf16 else w0)).numpy()
        masks = [live & (np.abs(t) > lam * np.abs(one.numpy() - t.astype("f4"))) for t in tau]
        return np.where(np.sum(masks, axis=0) >= k, one.numpy(), 0)

    return _each(tasks, kept)


def philox(key: tuple[int, int], counter: tuple[int, int, int, int]) -> list[int]:
    """Philox 4x32-10 in whole numbers: ten rounds of a multiplication, an exchange, a key."""
    (k0, k1), (x0, x1, x2, x3) = key, counter
    for _ in range(10):
        (h0, l0), (h1, l1) = divmod(0xD2511F53 * x0, 2**32), divmod(0xCD9E8D57 * x2, 2**32)
        x0, x1, x2, x3 = h1 ^ x1 ^ k0, l1, h0 ^ x3 ^ k1, l0
        k0, k1 = (k0 + 0x9E3779B9) % 2**32, (k1 + 0xBB67AE85) % 2**32
    return [x0, x1, x2, x3]
