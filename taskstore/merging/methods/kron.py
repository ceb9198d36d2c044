"""`kron`: `wudi` over the inputs and the outputs of a layer, both guessed from the task vectors.

    min over tau of  sum_t |D_t^1/2 (tau - tau'_t) C_t^1/2|_F^2                        (ours)
    C_t = I tau_t^T tau_t / |tau_t|^2 + r      the inputs that task t changed, mean diagonal 1 + r
    D_t = O tau_t tau_t^T / |tau_t|^2 + r      the outputs
    tau'_t = tau_t (m / |tau_t|)^even          lengths evened out, m their mean over the tasks

per matrix. So each task holds tau at its own vector, most in what it changed itself; `ridge` = r
says how much elsewhere, where the result is a mean. It is solved by conjugate gradients from the
mean, with the means of the C_t and D_t taken off, to 1e-6 of the right side. A side that is over 16
times as long as the other (embeddings) counts evenly: D_t or C_t is 1 there. A matrix is (O, I); a
vector of zeros counts for nothing. Other tensors are as in `wudi`. Arithmetic is float64.

Legend: O, I = outputs and inputs of a layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from taskstore.merging.methods.api import F32, Info, Option, Whole
from taskstore.merging.methods.input_products import F64
from taskstore.merging.methods.wudi import OTHERS, Wudi

LONG, NEAR, MOST = 16, 1e-6, 500
MEMORY = "one matrix of every task, and Gram matrices of both sides, in float64"


class Kron(Wudi):
    INFO = Info(
        "WUDI over both sides",
        "min sum_t |D_t^1/2 (tau - tau'_t) C_t^1/2|^2, C_t and D_t of tau_t^T tau_t, tau_t tau_t^T",
        "ours, after arXiv 2503.08099 (taskstore)",
        (
            Option("ridge", 0.3, 1e-12, 1e6, "hold of a task in what it did not change"),
            Option("even", 0.5, 0, 1, "how far the vectors' lengths are evened out, per matrix"),
            OTHERS,
        ),
        whole=True,
        memory=MEMORY,
    )

    def merge_whole(self, matrix: Whole) -> F32:
        ridge, unit_SOI, length_S = float(self.options["ridge"]), list[F64](), list[float]()
        for s in range(len(matrix.rows)):
            tau_OI = matrix.read(s).astype(np.float64)
            if (length := float(np.linalg.norm(tau_OI))) > 0:
                unit_SOI.append(tau_OI / length)
                length_S.append(length)
        if not unit_SOI:
            return np.zeros(matrix.shape, np.float32)
        if min(matrix.shape) * LONG < max(matrix.shape):
            sides = matrix.shape[0] <= matrix.shape[1], matrix.shape[0] >= matrix.shape[1]
        else:
            sides = True, True
        even, middle = self.options["even"], float(np.mean(length_S))
        to_S = [length ** (1 - even) * middle**even for length in length_S]
        merged_OI = solved(Products(unit_SOI, ridge, *sides), to_S)
        return np.ascontiguousarray(merged_OI, np.float32)

    def matrix_bytes(self, shape: tuple[int, int], tasks: int) -> int:
        outputs, inputs = shape
        long = min(shape) * LONG < max(shape)
        squares = min(shape) ** 2 if long else outputs**2 + inputs**2
        return 8 * ((tasks + 10) * outputs * inputs + 4 * squares)


@dataclass(frozen=True)
class Products:
    """x -> D_t x C_t of each task; `outputs` and `inputs`: whether D_t and C_t are no 1."""

    unit_SOI: Sequence[F64]
    ridge: float
    outputs: bool
    inputs: bool

    def of(self, s: int, x_OI: F64) -> F64:
        unit_OI = self.unit_SOI[s]
        if self.inputs:
            x_OI = _times(x_OI.T, unit_OI.T, self.ridge).T
        return _times(x_OI, unit_OI, self.ridge) if self.outputs else x_OI

    def all(self, x_OI: F64) -> F64:
        return np.asarray(sum(self.of(s, x_OI) for s in range(len(self.unit_SOI))))

    def inverses(self) -> tuple[F64 | None, F64 | None]:
        """The inverses of the means of D_t (O, O) and of C_t (I, I)."""
        return (
            _inverse(self.unit_SOI, self.ridge) if self.outputs else None,
            _inverse([unit.T for unit in self.unit_SOI], self.ridge) if self.inputs else None,
        )


def solved(products: Products, to_S: Sequence[float]) -> Any:
    """The minimum, (O, I); task s has the vector to_s unit_s. Conjugate gradients."""
    wanted_SOI = (to * unit for to, unit in zip(to_S, products.unit_SOI, strict=True))
    x_OI, right_OI = np.zeros_like(products.unit_SOI[0]), np.zeros_like(products.unit_SOI[0])
    for s, wanted_OI in enumerate(wanted_SOI):
        x_OI += wanted_OI / len(to_S)
        right_OI += products.of(s, wanted_OI)
    least = NEAR * float(np.linalg.norm(right_OI))
    left, right = products.inverses()
    rest_OI = right_OI - products.all(x_OI)
    step_OI, before = np.zeros_like(x_OI), 1.0
    for _ in range(MOST):
        if np.linalg.norm(rest_OI) <= least:
            break
        way_OI = rest_OI if left is None else left @ rest_OI
        way_OI = way_OI if right is None else way_OI @ right
        slope = float(np.vdot(rest_OI, way_OI))
        step_OI = way_OI + slope / before * step_OI
        moved_OI = products.all(step_OI)
        far = slope / float(np.vdot(step_OI, moved_OI))
        x_OI, rest_OI, before = x_OI + far * step_OI, rest_OI - far * moved_OI, slope
    return x_OI


def _times(x_OI: F64, unit_OI: F64, ridge: float) -> F64:
    """(O unit unit^T + ridge) x."""
    return np.asarray(len(unit_OI) * (unit_OI @ (unit_OI.T @ x_OI)) + ridge * x_OI)


def _inverse(unit_SOI: Sequence[F64], ridge: float) -> F64:
    size = len(unit_SOI[0])
    total = sum(unit_OI @ unit_OI.T for unit_OI in unit_SOI) * (size / len(unit_SOI))
    return np.asarray(np.linalg.inv(total + ridge * np.eye(size)), np.float64)
