"""`tsv`: the tasks' strongest singular directions, made orthogonal to each other.

    tau_t ~ U_t S_t V_t^T,  the largest k = floor(min(O, I) / S) singular values of each task
    U = [U_1 .. U_S], V = [V_1 .. V_S], each replaced by the nearest orthonormal matrix:
    X = P D Q^T -> P Q^T;   tau = U diag(S_1 .. S_S) V^T        (Gargiulo et al., arXiv 2412.00081)

This is done to every tensor of two dimensions, embeddings too. All others are the mean, and so is a
matrix that is too small for k to be 1. The authors' code leaves out a tensor called
text_projection, which is of their model. Two things it leaves open: a direction whose singular
value is 0 to float32's precision is not taken, since it is one of many; a direction of P and Q that
D does not reach is not taken either, so equal vectors merge to themselves.

Legend: K = directions taken.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from taskstore.merging.methods.api import F32, Info, Method, Shared, Vectors, Whole
from taskstore.merging.methods.mean import mean
from taskstore.merging.methods.singular import SVD, floats_of, rank_of, svd


class Tsv(Method):
    INFO = Info(
        "TSV-Merge",
        "tau = U S V^T of the largest min(O, I) / T singular values per task, U and V orthogonal",
        "Gargiulo et al., arXiv 2412.00081",
        whole=True,
        memory=SVD,
    )

    def merge(self, block: Vectors) -> F32:
        return mean(block.tau_SN, np.ones_like(block.weight_S), block.tensor)

    def wants_whole(self, tensor: str, shape: tuple[int, ...]) -> bool:
        return len(shape) == 2 and min(shape) >= 2

    def merge_whole(self, matrix: Whole) -> F32:
        tasks = len(matrix.rows)
        kept = min(matrix.shape) // tasks
        if kept == 0:
            return np.asarray(sum(matrix.read(s) / np.float32(tasks) for s in range(tasks)))
        if matrix.shared and matrix.weight_S.all():
            u_OK, s_K, v_IK, of_K = _shared(matrix.shared, matrix.tensor, tasks, kept)
            s_K = s_K * matrix.weight_S[of_K]  # directions are those of the vectors unweighted
        else:
            u_OK, s_K, v_IK, _ = factors(matrix.read, tasks, kept)
        return np.ascontiguousarray((u_OK * s_K) @ v_IK.T)

    def matrix_bytes(self, shape: tuple[int, int], tasks: int) -> int:
        return 4 * floats_of(shape)


def factors(read: Callable[[int], F32], tasks: int, kept: int) -> tuple[Any, ...]:
    """U (O, K), S (K,), V (I, K) of all tasks, U and V orthonormal, and each column's task (K,)."""
    parts = [largest(read(s), kept) for s in range(tasks)]
    u_OK = orthonormal(np.concatenate([u for u, _, _ in parts], axis=1))
    v_IK = orthonormal(np.concatenate([v for _, _, v in parts], axis=1))
    s_K = np.concatenate([s for _, s, _ in parts])
    return u_OK, s_K, v_IK, np.repeat(np.arange(tasks), [s.size for _, s, _ in parts])


def _shared(shared: Shared, tensor: str, tasks: int, kept: int) -> list[Any]:
    """The same, from a merge before where one left them."""
    found = [shared.store.get(("tsv", tensor, n)) for n in range(4)]
    if all(part is not None for part in found):
        return found
    made = list(factors(shared.read, tasks, kept))
    for n, part in enumerate(made):
        shared.store.put(("tsv", tensor, n), part)
    return made


def largest(tau_OI: Any, k: int) -> tuple[Any, Any, Any]:
    """U (O, K), S (K,) and V (I, K) of the at most k largest singular values that are not 0."""
    u, s, vt = svd(tau_OI)
    k = min(k, rank_of(s, max(tau_OI.shape)))
    return u[:, :k].copy(), s[:k], vt[:k].T.copy()


def orthonormal(x: Any) -> Any:
    """P Q^T of X = P D Q^T, over the directions that D reaches."""
    p, d, qt = svd(x)
    rank = rank_of(d, max(x.shape))
    return np.asarray(p[:, :rank] @ qt[:rank])
