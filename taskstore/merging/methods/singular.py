"""Singular values of a matrix, for the methods that work on them, and the memory that they take."""

from __future__ import annotations

from typing import Any

import numpy as np

SVD = "one matrix and its singular vectors: about 12 times its float32 values"


def svd(x: Any) -> tuple[Any, Any, Any]:
    """X = U S V^T, reduced: U, S and V^T, in the type of X."""
    try:
        import torch  # its LAPACK takes half the time of numpy's
    except ImportError:
        u, s, vt = np.linalg.svd(x, full_matrices=False)
        return u, s, vt
    u, s, vt = torch.linalg.svd(torch.from_numpy(np.require(x, None, "W")), full_matrices=False)
    return u.numpy(), s.numpy(), vt.numpy()


def rank_of(s: Any, size: int) -> int:
    """The number of singular values that are not 0 to the precision of their type."""
    return int((s > s.max(initial=0) * size * np.finfo(s.dtype).eps).sum())


def floats_of(shape: tuple[int, int]) -> int:
    """Values of the type of X that LAPACK, U, S, V^T and what is made of them take.

    The copy that is factored, work space of gesdd (about 4 k^2 + 8 k), both factors, their stacks
    over the tasks and the products, k = the smaller side.
    """
    rows, columns = shape
    k = min(shape)
    return 5 * rows * columns + 3 * k * (rows + columns) + 4 * k * k
