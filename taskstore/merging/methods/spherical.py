"""Methods whose result is a sum of the models' weights, or of their vectors, with factors that only
their lengths and angles decide: all that is needed of a tensor is a table of inner products.

Inner products are added up in float64 and factors are rounded to float32, so the size of blocks
does not show. Legend: P = points, the base first: P = S + 1.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from taskstore.merging.methods.api import F32, Method, Option, Scan, Vectors

Table = NDArray[np.float64]
BLOCK = 8192  # elements that are widened to float64 at a time
PARALLEL = 1e-8  # sines below this are those of equal directions
BY = Option("by", 0, 0, 2, "0: per tensor, 1: per row, 2: per column", whole=True)
BASE_WEIGHT = Option("base_weight", 0, 0, 1e6, "weight of the base among the models; 0: it is none")


class Spherical(Method):
    """Base of such methods: `_factors` says what they are."""

    weighs = True
    passes = 1

    def fit(self, scan: Scan) -> None:
        tables: dict[str, Table] = {}
        for tensor, table_PP in scan.blocks(inner_products):
            tables[tensor] = tables.get(tensor, 0) + table_PP
        self._tables = tables

    def merge(self, block: Vectors) -> F32:
        factor_P = self._factors(self._tables[block.tensor], block.weight_S.astype(np.float64))
        merged_N = np.zeros(block.w0_N.size, np.float32)
        for factor, row_N in zip(factor_P, (block.theta0_N, *block.tau_SN), strict=True):
            if np.float32(factor):
                merged_N += np.float32(factor) * row_N
        return merged_N

    def _factors(self, table_PP: Table, weight_S: Table) -> Table:
        """The factors of theta_0 and of the tau_s, float64 (P,).

        `table_PP` has the inner products of theta_0 and the tau_s.
        """
        raise NotImplementedError


def inner_products(block: Vectors) -> Table:
    """Of theta_0 and the tau_s, over a block, float64 (P, P)."""
    table_PP = np.zeros((len(block.rows) + 1,) * 2)
    for start in range(0, block.w0_N.size, BLOCK):
        part = slice(start, start + BLOCK)
        wide = np.vstack([block.theta0_N[part], block.tau_SN[:, part]]).astype(np.float64)
        table_PP += wide @ wide.T
    return table_PP


def of_weights(table_PP: Table) -> Table:
    """The inner products of theta_0 and the theta_s = theta_0 + tau_s, (P, P)."""
    turn_PP = np.eye(len(table_PP))
    turn_PP[:, 0] = 1
    found: Table = turn_PP @ table_PP @ turn_PP.T
    return found


def as_vector(factor_P: Table) -> Table:
    """The factors of theta_0 and the tau_s that make sum f_p theta_p, less theta_0."""
    found: Table = np.concatenate([[factor_P.sum() - 1], factor_P[1:]])
    return found


def between(t: float, ours: float, theirs: float, product: float, straight: float) -> Table:
    """The two factors of a slerp; `ours` and `theirs` are squared lengths.

    Directions whose cosine is `straight` or more from 0 are interpolated on the straight line.
    """
    lengths = np.sqrt(max(ours, 0) * max(theirs, 0))
    cos = min(1.0, max(-1.0, product / lengths)) if lengths else 0.0
    if abs(cos) > straight:
        return np.array([1 - t, t])
    angle = np.arccos(cos)
    found: Table = np.array([np.sin((1 - t) * angle), np.sin(t * angle)]) / np.sin(angle)
    return found


def by_lines(a: F32, b: F32, axis: int, t: float, straight: float) -> F32:
    """A slerp of each row (`axis` 1) or column (0) of two matrices, which it overwrites."""
    products = (np.einsum("ij,ij->" + "ij"[1 - axis], x, y, dtype=np.float64)
                for x, y in ((a, a), (b, b), (a, b)))  # fmt: skip
    factors = np.array([between(t, ours, theirs, product, straight)
                        for ours, theirs, product in zip(*products, strict=True)],
                       np.float32)  # fmt: skip
    for vectors, factor in zip((a, b), factors.T, strict=True):
        vectors *= np.expand_dims(factor, axis)
    a += b
    return a
