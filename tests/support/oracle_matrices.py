"""Merge methods on matrices, and what stands before and after them, in plain float64.

As in `oracle_merge`: whole models, formulas as they are published, nothing shared with the library.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tests.support.oracle_merge import Model, Models, _each

F64 = NDArray[np.float64]


def _on_matrices(tasks: Models, function: Any) -> dict[str, F64]:
    """function(vectors (S, O, I)) of matrices, the mean of all else."""

    def merged(name: str, _having: list[int], tau: F64) -> F64:
        return np.asarray(function(name, tau) if tau.ndim == 3 else tau.mean(0))

    return _each(tasks, merged)


def _held(wanted: F64, rows: F64, total: F64, ridge: float) -> F64:
    """Least squares of tau rows^T = wanted, with rows that hold tau at `total`, by the inverse."""
    hold = np.sqrt(ridge * np.square(rows).sum() / rows.shape[1]) * np.eye(rows.shape[1])
    right = np.hstack([wanted, total @ hold])
    return np.asarray(right @ np.linalg.pinv(np.vstack([rows, hold]).T))


def wudi(tasks: Models, ridge: float = 1) -> dict[str, F64]:
    """tau [tau_1^T / n_1 ..] = [tau_1 tau_1^T / n_1 ..]."""

    def solved(_name: str, tau: F64) -> F64:
        unit = [one / np.linalg.norm(one) for one in tau]
        wanted = np.hstack([one @ u.T for one, u in zip(tau, unit, strict=True)])
        return _held(wanted, np.vstack(unit), tau.sum(0), ridge)

    return _on_matrices(tasks, solved)


def actmat(tasks: Models, ridge: float = 1) -> dict[str, F64]:
    def solved(_name: str, tau: F64) -> F64:
        wanted = np.hstack([one @ one.T for one in tau])
        return _held(wanted, np.vstack(list(tau)), tau.sum(0), ridge)

    return _on_matrices(tasks, solved)


def kron(tasks: Models, ridge: float, even: float) -> dict[str, F64]:
    """The normal equations, as one system over all elements of a matrix."""

    def solved(_name: str, tau: F64) -> F64:
        outputs, inputs = tau.shape[1:]
        length = [float(np.linalg.norm(one)) for one in tau]
        system, right = np.zeros((outputs * inputs,) * 2), np.zeros(outputs * inputs)
        for one, norm in zip(tau, length, strict=True):
            c = inputs * one.T @ one / norm**2 + ridge * np.eye(inputs)
            d = outputs * one @ one.T / norm**2 + ridge * np.eye(outputs)
            own = np.kron(d, c)
            system += own
            right += own @ (one * (np.mean(length) / norm) ** even).ravel()
        return np.asarray(np.linalg.solve(system, right).reshape(outputs, inputs))

    return _on_matrices(tasks, solved)


def wudi_loss(tau: Any, vectors: Any) -> Any:
    """sum_t |(tau - tau_t) tau_t^T|^2 / |tau_t|^2, of torch's tensors."""
    return sum(((tau - v) @ v.mT).square().sum() / v.square().sum() for v in vectors)


def wudi_steps(tasks: Models, steps: int, rate: float) -> dict[str, F64]:
    """Adam from the sum, gradients by torch."""

    def descended(_name: str, tau: F64) -> F64:
        vectors = torch.from_numpy(tau)
        moved = vectors.sum(0).requires_grad_()
        adam = torch.optim.Adam([moved], lr=rate)
        for _ in range(steps):
            adam.zero_grad()
            wudi_loss(moved, vectors).backward()
            adam.step()
        return np.asarray(moved.detach())

    return _on_matrices(tasks, descended)


def _polar(x: Any) -> Any:
    """The nearest orthonormal matrix, from the eigenvectors of X X^T or X^T X."""
    if x.shape[0] < x.shape[1]:
        return _polar(x.mT).mT
    values, q = torch.linalg.eigh(x.mT @ x)
    return x @ (q @ torch.diag(values.rsqrt()) @ q.mT)


def iso_c(tasks: Models) -> dict[str, F64]:
    def merged(_name: str, tau: F64) -> F64:
        total = torch.from_numpy(tau.sum(0))
        mean = torch.linalg.matrix_norm(total, "nuc") / min(total.shape)
        return np.asarray(mean * _polar(total))

    return _on_matrices(tasks, merged)


def iso_cts(tasks: Models, common: float) -> dict[str, F64]:
    def merged(_name: str, tau: F64) -> F64:
        total, rank, count = tau.sum(0), min(tau.shape[1:]), len(tau)
        own = round((rank - int(rank * common)) / count)
        shared = rank - own * count
        u, s, vt = np.linalg.svd(total, full_matrices=False)
        parts = [(u[:, :shared], s[:shared], vt[:shared])]
        for one in tau:
            left = one - u[:, :shared] @ u[:, :shared].T @ one
            a, b, c = np.linalg.svd(left, full_matrices=False)
            parts.append((a[:, :own], b[:own], c[:own]))
        all_u = torch.from_numpy(np.hstack([part[0] for part in parts]))
        all_v = torch.from_numpy(np.vstack([part[2] for part in parts]))
        mean = np.concatenate([part[1] for part in parts]).mean()
        return np.asarray(float(mean) * _polar(all_u) @ _polar(all_v))

    return _on_matrices(tasks, merged)


def lors(tasks: Models, rank: float, density: float) -> dict[str, F64]:
    def sparse(low: F64, least_kept: int) -> F64:
        size = np.sort(np.abs(low).ravel())[::-1]
        return np.where(np.abs(low) >= size[least_kept - 1], low, 0)

    def merged(_name: str, _having: list[int], tau: F64) -> F64:
        total = np.zeros(tau.shape[1:])
        for one in tau:
            if one.ndim == 2:
                u, s, vt = np.linalg.svd(one, full_matrices=False)
                kept = max(1, round(rank * s.size))
                one = u[:, :kept] @ np.diag(s[:kept]) @ vt[:kept]
            total += sparse(one, max(1, int(density * one.size)))
        return total

    return _each(tasks, merged)


def svc(tasks: Models, merged: Model, floor: float) -> dict[str, F64]:
    found = {name: np.asarray(tau, np.float64) for name, tau in merged.items()}
    for name, tau in found.items():
        own = [np.asarray(task[name], np.float64) for task in tasks if name in task]
        if tau.ndim == 2:
            u, s, vt = np.linalg.svd(tau, full_matrices=False)
            for r in range(s.size):
                a = u[:, r] @ tau
                shares = [a @ (u[:, r] @ t) / np.sum((u[:, r] @ t) ** 2) for t in own]
                s[r] *= len(own) / np.maximum(floor, shares).sum()
            found[name] = u @ np.diag(s) @ vt
    return found


def lines(tasks: Models, merged: Model, beta: float) -> dict[str, F64]:
    """One stack of blocks: h.0, h.1 .."""
    names = sorted({name for task in tasks for name in task})
    total = {n: sum(np.asarray(t[n], np.float64) for t in tasks if n in t) for n in names}
    norms = [
        np.sqrt(sum(np.sum(np.square(m[n], dtype=np.float64)) for n in names))
        for m in (total, merged)
    ]
    a = norms[0] / norms[1] / len(tasks)
    number = {n: int(found[1]) for n in names if (found := re.match(r"h\.(\d+)\.", n))}
    deepest = max(number.values())
    return {n: (a + beta * number.get(n, 0) / deepest) * np.asarray(merged[n]) for n in names}


def trusted(tasks: Models, quantile: float) -> list[dict[str, F64]]:
    omega: Mapping[str, F64] = _each(
        tasks,
        lambda _name, _having, tau: np.asarray(
            sum(abs(a) * abs(b) for i, a in enumerate(tau) for j, b in enumerate(tau) if i != j)
            + np.zeros(tau.shape[1:])
        ),
    )
    flat = np.concatenate([value.ravel() for value in omega.values()])
    most = np.quantile(flat, quantile, method="inverted_cdf")
    return [
        {n: np.where(omega[n] <= most * (1 + 1e-6), tau, 0) for n, tau in task.items()}
        for task in tasks
    ]


def quantised(tasks: Models, bits: int) -> list[dict[str, F64]]:
    def one(tau: F64) -> F64:
        top = 2**bits - 1
        step = (tau.max() - tau.min()) / top
        zero = np.round(-tau.min() / step)
        codes = np.clip(np.round(tau / step) + zero, 0, top)
        return np.asarray((codes - zero) * step)

    return [{n: one(np.asarray(tau, np.float64)) for n, tau in task.items()} for task in tasks]


def stitched(tasks: Models, density: float) -> dict[str, F64]:
    least = []
    for task in tasks:
        flat = np.sort(np.concatenate([np.abs(tau).ravel() for tau in task.values()]))
        least.append(flat[max(1, flat.size - int(flat.size * density)) - 1])

    def merged(_name: str, having: list[int], tau: F64) -> F64:
        masks = np.stack([np.abs(v) >= least[t] for t, v in zip(having, tau, strict=True)])
        with np.errstate(invalid="ignore"):
            return np.asarray(np.nan_to_num((masks / masks.sum(0) * tau).sum(0)))

    return _each(tasks, merged)


def obim(tasks: Models, grams: Models, density: float) -> dict[str, F64]:
    def merged(name: str, having: list[int], tau: F64) -> F64:
        if name not in grams[0]:
            return np.asarray(tau.mean(0))
        found = np.zeros(tau.shape[1:])
        owner = np.full(tau.shape[1:], -1)
        for t, own in zip(having, tau, strict=True):
            saliency = own**2 * np.diag(grams[t][name])
            count = max(1, int(density * own.size))
            for place in np.argsort(-saliency, axis=None)[:count]:
                where = np.unravel_index(place, own.shape)
                if owner[where] < 0:
                    owner[where], found[where] = t, own[where]
        return found

    return _each(tasks, merged)


def bases(tasks: Models, count: int, seed: int) -> dict[str, F64]:
    """By torch's Adam on the whole vectors, flat, with gradients that torch finds."""
    names = sorted(tasks[0])
    flat = [np.concatenate([np.asarray(t[n], np.float64).ravel() for n in names]) for t in tasks]
    vectors = torch.from_numpy(np.stack(flat, 1))
    scale = float((vectors**2).sum() / len(tasks))
    drawn = np.random.default_rng(seed).standard_normal((len(tasks), count))
    a = torch.from_numpy(drawn).requires_grad_()
    w = torch.zeros((count, len(tasks)), dtype=torch.float64, requires_grad=True)
    adam = torch.optim.Adam([a, w], lr=0.01, weight_decay=1e-6)
    gram = vectors.T @ vectors / scale
    for _ in range(6000):
        error = torch.softmax(a / 5, 0) @ w - torch.eye(len(tasks), dtype=torch.float64)
        adam.zero_grad()
        loss = torch.trace(error.T @ gram @ error) / len(tasks) ** 2
        torch.autograd.backward(loss)
        adam.step()
    share = torch.softmax(a.detach() / 5, 0).sum(1).numpy()
    return {n: sum(c * np.asarray(t[n]) for c, t in zip(share, tasks, strict=True)) for n in names}
