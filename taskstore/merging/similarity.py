"""Measures the lengths of a family's task vectors and the cosine of each pair.

tau_t = theta_t - theta_0 over the float tensors that a task shares with the base; a tensor that it
lacks, or has only privately, counts as zero, and so does a weight that is not finite. With the Gram
matrix G of the vectors, |a| = sqrt(G_aa) and cos(a, b) = G_ab / (|a| |b|).

Small families are measured whole, of larger ones a sample: short runs of weights, spread evenly
over every block. That moves a cosine by about a hundredth at most where it was tried.

Legend: T = tasks, S = tasks that have a tensor, N = elements of a block, M = those looked at.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taskstore.format.manifest import Vectors
from taskstore.kernels import cpu, floats, products
from taskstore.models import TensorInfo

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
Weights = tuple[NDArray[Any], str]  # bits (N,) and their dtype
SMALL = 3 << 24  # weights of all tasks together up to which every one is looked at
SAMPLE = 1 << 21  # and how many of more
RUN = products.STRIP  # weights of a run
STEP = 1 << 13  # weights of a task that become float32 at a time
GOLDEN = 0.6180339887498949  # its multiples are spread evenly
PLACES = 4  # of a cosine; the order of the sums is not seen in them


def share_of(shared: Iterable[tuple[TensorInfo, int]]) -> float:
    """Return the share of weights to look at, given each tensor and how many tasks share it."""
    every = sum(info.numel * tasks for info, tasks in shared)
    return 1.0 if every <= SMALL else SAMPLE / every


def of_vectors(tau_SN: F32, share: float) -> F64:
    """Return the inner products of a block's task vectors, (S, S)."""
    sums_SS = products.inner(tau_SN, _runs(tau_SN.shape[1], share))
    if not np.isfinite(sums_SS.sum()):
        sums_SS = _sums((_sampled(tau_SN, share),))
    return sums_SS * _scale(tau_SN.shape[1], share)


def of_weights(tasks: Sequence[Weights], base: Weights, share: float) -> F64:
    """Return the same, given the weights of the tasks and of the base."""
    w0_M = floats.to_float32(_sampled(base[0], share), base[1])
    taken = [(_sampled(theta_N, share), dtype) for theta_N, dtype in tasks]
    return _sums(_vectors(taken, w0_M)) * _scale(base[0].size, share)


def of_bf16(theta_SN: NDArray[Any], w0_N: NDArray[Any], share: float) -> F64:
    """Return the same, given bits of BF16 of the tasks, (S, N), and of the base."""
    w0_M = floats.to_float32(_sampled(w0_N, share), "BF16")
    taken = [(theta_M, "BF16") for theta_M in _sampled(theta_SN, share)]
    return _sums(_vectors(taken, w0_M)) * _scale(w0_N.size, share)


def _vectors(tasks: Sequence[Weights], theta0_M: F32) -> Iterable[F32]:
    """Yield a few columns of the task vectors at a time."""
    for start in range(0, theta0_M.size, STEP):
        part = theta0_M[start : start + STEP]
        tau_SM = np.empty((len(tasks), part.size), np.float32)
        for (theta_M, dtype), tau_M in zip(tasks, tau_SM, strict=True):
            cpu.task_vector(theta_M[start : start + STEP], dtype, part, tau_M)
        yield tau_SM


def _sums(parts: Iterable[F32]) -> F64:
    total: Any = 0.0
    for tau_SM in parts:
        sums_SS = products.inner(tau_SM)
        if not np.isfinite(sums_SS).all():
            wide_SM = np.nan_to_num(tau_SM, nan=0, posinf=0, neginf=0).astype(np.float64)
            sums_SS = wide_SM @ wide_SM.T
        total = total + sums_SS
    return np.asarray(total)


@lru_cache(maxsize=8)
def _runs(n: int, share: float) -> NDArray[np.intp] | None:
    """Return the runs of N elements that are looked at, by number; None: all elements."""
    runs = n // RUN
    wanted = max(1, round(runs * share))
    if share >= 1 or runs < 2 or wanted >= runs:
        return None
    strata = np.arange(wanted)
    return ((strata + strata * GOLDEN % 1) * (runs / wanted)).astype(np.intp)


def _sampled(of: NDArray[Any], share: float) -> NDArray[Any]:
    """Take the same elements of the last axis of any array, (..., N) -> (..., M)."""
    runs = _runs(of.shape[-1], share)
    if runs is None:
        return of
    whole = of[..., : of.shape[-1] // RUN * RUN]
    found = whole.reshape(*of.shape[:-1], -1, RUN)[..., runs, :]
    return np.ascontiguousarray(found).reshape(*of.shape[:-1], -1)


def _scale(n: int, share: float) -> float:
    """Return how many elements of a block each one stands for."""
    runs = _runs(n, share)
    return 1.0 if runs is None else n / (RUN * runs.size)


class Gram:
    """Adds up the products of blocks, (T, T)."""

    def __init__(self, tasks: int) -> None:
        self._total = np.zeros((tasks, tasks))

    def add(self, rows: Sequence[int], products_SS: F64) -> None:
        self._total[np.ix_(rows, rows)] += products_SS

    def vectors(self, tasks: Sequence[str], share: float) -> Vectors:
        """Return lengths and cosines, rounded so that equal families give equal bytes."""
        norms = np.sqrt(self._total.diagonal()).tolist()
        return Vectors(
            share=float(f"{share:.3g}"),
            norms={task: float(f"{x:.5g}") for task, x in zip(tasks, norms, strict=True)},
            cosines=[
                [_cosine(self._total[i, j], norms[i] * norms[j]) for j in range(i)]
                for i in range(len(tasks))
            ],
        )


def _cosine(product: float, lengths: float) -> float | None:
    return round(max(-1.0, min(1.0, float(product / lengths))), PLACES) if lengths else None
