"""The published method in plain torch, whole models at once: what a store must reproduce."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from taskstore.kernels import reference
from tests.support.families import State

DENSITY = 0.2


def task_vectors(base: State, tasks: Mapping[str, State]) -> dict[str, State]:
    """task -> tensor -> float32 vector, for tensors of equal shape; tasks by name."""
    return {
        name: {
            k: state[k].float() - base[k].float()
            for k in sorted(base)
            if k in state and state[k].shape == base[k].shape
        }
        for name, state in sorted(tasks.items())
    }


def merged_sum(vectors: Mapping[str, State], name: str) -> Tensor:
    """tau_MTL = sum_t tau_t, added one after the other."""
    total: Tensor | None = None
    for vector in vectors.values():
        if name in vector:
            total = vector[name].clone() if total is None else total + vector[name]
    assert total is not None
    return total


def merged_lsq(vectors: Mapping[str, State], name: str) -> Tensor:
    """The v that minimises sum_t min(tau^2, (tau - v)^2): the mean of the j most extreme of a side.

    Every count j on both sides is tried, in float32 and in the order of the values.
    """
    tau_TN = torch.stack([v[name].reshape(-1) for v in vectors.values() if name in v])
    best_N, gain_N = torch.zeros(tau_TN.shape[1]), torch.zeros(tau_TN.shape[1])
    for sign in (1.0, -1.0):
        total_N = torch.zeros(tau_TN.shape[1])
        side_TN = (tau_TN * sign).sort(0, descending=True).values.clamp(min=0)
        for j, row_N in enumerate(side_TN):
            total_N = total_N + row_N
            mean_N = total_N * (torch.tensor(1.0) / (j + 1))
            gain = total_N * mean_N
            best_N = torch.where(gain > gain_N, sign * mean_N, best_N)
            gain_N = torch.maximum(gain, gain_N)
    shape = next(v[name].shape for v in vectors.values() if name in v)
    return best_N.view(shape)


def merged_ties(vectors: Mapping[str, State], *, mean: bool = False) -> State:
    """TIES over flat vectors, every task having every tensor: the disjoint sum, or the mean."""
    names = sorted(next(iter(vectors.values())))
    flat_TN = torch.stack([torch.cat([v[k].reshape(-1) for k in names]) for v in vectors.values()])
    d = flat_TN.shape[1]
    kth_T1 = flat_TN.abs().kthvalue(max(1, d - int(d * DENSITY)), dim=1, keepdim=True).values
    trimmed_TN = flat_TN * (flat_TN.abs() >= kth_T1)
    sum_N = torch.zeros(d)
    for row in trimmed_TN:
        sum_N = sum_N + row
    sign_N = torch.sign(sum_N)
    sign_N[sign_N == 0] = torch.sign(sign_N.sum())
    keep_TN = torch.where(sign_N > 0, trimmed_TN > 0, trimmed_TN < 0)
    merged_N = torch.zeros(d)
    for row, keep in zip(trimmed_TN, keep_TN, strict=True):
        merged_N = merged_N + row * keep
    if mean:
        merged_N = merged_N / (keep_TN & (trimmed_TN != 0)).sum(0).clamp(min=1)
    result, position = {}, 0
    for name in names:
        shape = next(iter(vectors.values()))[name].shape
        result[name] = merged_N[position : position + shape.numel()].reshape(shape)
        position += shape.numel()
    return result


def consensus(
    base: State, vectors: Mapping[str, State], merged: State, k: int, lam: float
) -> State:
    """The merged vectors where at least k TALL-masks take them, else 0."""
    result = {}
    for name, theta0 in base.items():
        w1 = reference.add(theta0, merged[name])
        masks = [reference.tall(v[name], merged[name], theta0, w1, lam) for v in vectors.values()]
        votes = torch.stack(masks).sum(0)
        result[name] = torch.where(votes >= k, merged[name], torch.zeros(()))
    return result


def rounded_w1(theta0: Tensor, merged: Tensor) -> Tensor:
    """W1 of the `rounded` coding: fp32(theta_0 + bf16(tau_MTL))."""
    w1 = theta0 + merged.to(torch.bfloat16).float()
    return torch.where(torch.isfinite(w1), w1, theta0)


def rebuild(
    theta0: Tensor,
    tau: Tensor,
    merged: Tensor,
    lam: float,
    *,
    rounded: bool = False,
    one_sided: bool = False,
) -> Tensor:
    """where(mask, W1, W0) of one tensor."""
    w1 = rounded_w1(theta0, merged) if rounded else reference.add(theta0, merged)
    mask = reference.tall(tau, merged, theta0, w1, lam)
    if one_sided:
        mask &= torch.sign(tau) == torch.sign(merged)
    return reference.select(mask, theta0, w1)
