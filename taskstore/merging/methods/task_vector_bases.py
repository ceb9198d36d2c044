"""`task_vector_bases`: the sum of a few vectors that stand for all (Zeng et al., arXiv 2502.01015).

    b_m = sum_t B_tm tau_t,  B = softmax of A / 5 over the tasks,  tau = sum_m b_m
    min over A, W:  tr(E^T G E) / T^2,  E = B W - 1,  G_st = <tau_s, tau_t>

M vectors b, each a mean of task vectors, from which linear weights W make every task vector again:
an autoencoder of which only the inner products are needed. It is trained by Adam as published:
6,000 steps of 0.01, weight decay 1e-6, W from zeros, A from normal numbers, in float64. M is
`bases`, half of the tasks if it is 0. G is divided by its mean diagonal, which changes nothing but
the weight decay. Checked against the authors' code, whose generator draws other numbers.

Tasks that are like others share a vector, so a family with many of one kind does not drown the
rest: the merged vector is a sum of all, each times sum_m B_tm, which adds up to M.

Legend: T = tasks, M = bases.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from taskstore.errors import OptionError
from taskstore.merging.methods.api import F32, Info, Method, Option, Rows, Scan, Vectors
from taskstore.merging.methods.sum import add_up

F64 = NDArray[np.float64]
PLACES = 6
SOFTNESS, STEPS, RATE, DECAY = 5.0, 6000, 0.01, 1e-6
BETA1, BETA2, TINY = 0.9, 0.999, 1e-8  # of Adam


class TaskVectorBases(Method):
    INFO = Info(
        "Task vector bases",
        "tau = sum_m b_m, b_m = sum_t B_tm tau_t; min over B, W of |tau_t - sum_m W_mt b_m|^2",
        "Zeng et al., arXiv 2502.01015",
        (
            Option("bases", 0, 0, 4096, "vectors that stand for all; 0: half of the tasks", True),
            Option("seed", 0, 0, 2**32 - 1, "where training starts", whole=True),
        ),
    )
    passes = 1

    def fit(self, scan: Scan) -> None:
        count, wanted = len(scan.names), int(self.options["bases"])
        if wanted > count:
            raise OptionError(f"{wanted} bases stand for {count} task vectors; give fewer")
        gram_TT = np.zeros((count, count))
        for _, (rows, sums_SS) in scan.blocks(_products):
            gram_TT[np.ix_(rows, rows)] += sums_SS
        bases = wanted or max(1, count // 2)
        found_TM = shares(gram_TT, bases, int(self.options["seed"]))
        self._coefficients = found_TM.sum(1).round(PLACES)  # so the size of blocks does not show

    def merge(self, block: Vectors) -> F32:
        c_S = self._coefficients[block.rows].astype(np.float32)
        return add_up(block.tau_SN, c_S, np.zeros_like(c_S))


def _products(block: Vectors) -> tuple[Rows, F64]:
    tau_SN = block.tau_SN.astype(np.float64)
    return block.rows, tau_SN @ tau_SN.T


def shares(gram_TT: F64, bases: int, seed: int) -> F64:
    """B, (T, M): what each task has of each base; its columns add up to 1."""
    tasks = len(gram_TT)
    scale = gram_TT.diagonal().mean()
    g_TT = gram_TT / scale if scale else gram_TT
    size = tasks * bases
    values = np.zeros(2 * size)  # A, then W
    values[:size] = np.random.default_rng(seed).standard_normal(size)
    gradient, first, second = (np.zeros(2 * size) for _ in range(3))
    for step in range(1, STEPS + 1):
        _slope(g_TT, values, gradient, bases)
        gradient += DECAY * values
        first += (1 - BETA1) * (gradient - first)
        second += (1 - BETA2) * (gradient * gradient - second)
        unbiased = np.sqrt(second / (1 - BETA2**step)) + TINY
        values -= RATE / (1 - BETA1**step) * first / unbiased
    return _softmax(values[:size].reshape(tasks, bases))


def _slope(g_TT: F64, values: F64, gradient: F64, bases: int) -> None:
    """The gradient of tr(E^T G E) / T^2 for A and W, into `gradient`."""
    tasks = len(g_TT)
    a, w = values[: tasks * bases], values[tasks * bases :]
    b_TM, w_MT = _softmax(a.reshape(tasks, bases)), w.reshape(bases, tasks)
    e_TT = b_TM @ w_MT
    e_TT.flat[:: tasks + 1] -= 1
    ge_TT = g_TT @ e_TT * (2 / tasks**2)
    own_TM = b_TM * (ge_TT @ w_MT.T)
    gradient[: tasks * bases] = ((own_TM - b_TM * own_TM.sum(0)) / SOFTNESS).reshape(-1)
    gradient[tasks * bases :] = (b_TM.T @ ge_TT).reshape(-1)


def _softmax(a_TM: F64) -> F64:
    e_TM = np.exp((a_TM - a_TM.max(0)) / SOFTNESS)
    return e_TM / e_TM.sum(0)  # type: ignore[no-any-return]
