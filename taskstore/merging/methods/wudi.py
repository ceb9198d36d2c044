"""`wudi`: the vector that disturbs each task least; a task's inputs are its own vector's rows.

    min over tau of  sum_t |(tau - tau_t) tau_t^T|_F^2 / |tau_t|_F^2          (arXiv 2503.08099)

per matrix. It is a square, with its minimum at

    tau = (sum_t tau_t C_t) (sum_t C_t)^-1,   C_t = tau_t^T tau_t / |tau_t|_F^2

which is RegMean with task vectors in the place of inputs. Where every vector is weak, the minimum
lies far away (its norm may be sixty times the sum's) and such a model is of no use. So the
sum holds it (`methods.input_products`), by `ridge` = 1 of the mean diagonal of sum_t C_t; 1e-8
gives the minimum itself. The authors' code takes `steps` = 300 steps of Adam from the sum at
`rate` 1e-5 (2e-5 for encoders), which also stops on the way; 0 steps: the closed form. Other
tensors are their mean, or stay at the base (`others` = 0). A matrix is (O, I); a vector of zeros
counts for nothing. Arithmetic is float64.

Legend: O, I = outputs and inputs of a layer.
"""

from __future__ import annotations

import numpy as np

from taskstore.merging.methods.api import (
    F32,
    Info,
    Method,
    Option,
    Shared,
    Vectors,
    Whole,
)
from taskstore.merging.methods.input_products import F64, GRAM, gram_bytes, solve
from taskstore.merging.methods.mean import mean

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8  # Adam's usual ones, which the authors use
OTHERS = Option("others", 1, 0, 1, "1: tensors that are no matrices are their mean, 0: the base's",
                whole=True)  # fmt: skip
RIDGE = Option("ridge", 1, 1e-12, 1e6, "hold of the sum, over the Gram matrix's mean diagonal")


class Wudi(Method):
    INFO = Info(
        "WUDI",
        "tau = (sum_t tau_t C_t) (sum_t C_t)^-1, C_t = tau_t^T tau_t / |tau_t|_F^2, per matrix",
        "Cheng et al., arXiv 2503.08099",
        (
            Option("steps", 0, 0, 100_000, "steps of Adam; 0: the closed form", whole=True),
            Option("rate", 1e-5, 1e-12, 1, "learning rate of the steps"),
            RIDGE,
            OTHERS,
        ),
        whole=True,
        memory=GRAM,
    )

    def merge(self, block: Vectors) -> F32:
        scale = np.float32(self.options["others"])
        return scale * mean(block.tau_SN, np.ones_like(block.weight_S), block.tensor)

    def wants_whole(self, tensor: str, shape: tuple[int, ...]) -> bool:
        return len(shape) == 2

    def merge_whole(self, matrix: Whole) -> F32:
        wanted_OI, gram_II, sum_OI = sums(matrix, normed=True)
        if self.options["steps"]:
            steps, rate = int(self.options["steps"]), self.options["rate"]
            merged_OI = descended(sum_OI, wanted_OI, gram_II, steps, rate)
        else:
            merged_OI = solve(wanted_OI, gram_II, self.options["ridge"], sum_OI)
        return np.ascontiguousarray(merged_OI, np.float32)

    def matrix_bytes(self, shape: tuple[int, int], tasks: int) -> int:
        return gram_bytes(shape)


def sums(matrix: Whole, *, normed: bool) -> tuple[F64, F64, F64]:
    """sum_t tau_t C_t (O, I), sum_t C_t (I, I) and sum_t tau_t (O, I); C_t `normed` or not."""
    outputs, inputs = matrix.shape
    if matrix.shared and normed and matrix.weight_S.all():
        return _shared(matrix, matrix.shared)
    wanted_OI, sum_OI = np.zeros((outputs, inputs)), np.zeros((outputs, inputs))
    gram_II = np.zeros((inputs, inputs))
    for s in range(len(matrix.rows)):
        tau_OI = matrix.read(s).astype(np.float64)
        square = float(np.vdot(tau_OI, tau_OI))
        if square == 0:
            continue
        own_II = tau_OI.T @ tau_OI
        if normed:
            own_II /= square
        sum_OI += tau_OI
        gram_II += own_II
        wanted_OI += tau_OI @ own_II
    return wanted_OI, gram_II, sum_OI


def _shared(matrix: Whole, shared: Shared) -> tuple[F64, F64, F64]:
    """The same where merges before left tau_t C_t and sum_t C_t, on which weights do not tell."""
    outputs, inputs = matrix.shape
    wanted_OI, sum_OI = np.zeros((outputs, inputs)), np.zeros((outputs, inputs))
    store, name = shared.store, ("wudi", matrix.tensor)
    total_II = store.get(name)
    gram_II = np.zeros((inputs, inputs)) if total_II is None else np.array(total_II)
    for s, weight in enumerate(matrix.weight_S.tolist()):
        tau_OI = shared.read(s).astype(np.float64)
        own_OI = None if total_II is None else store.get((*name, s))
        if own_OI is None:
            own_II = tau_OI.T @ tau_OI
            own_II /= float(np.vdot(tau_OI, tau_OI)) or 1.0
            own_OI = tau_OI @ own_II
            if total_II is None:
                gram_II += own_II
            store.put((*name, s), own_OI)
        wanted_OI += weight * own_OI
        tau_OI *= weight
        sum_OI += tau_OI
    if total_II is None:
        store.put(name, gram_II)
    return wanted_OI, gram_II, sum_OI


def gradient(tau_OI: F64, wanted_OI: F64, gram_II: F64) -> F64:
    """2 sum_t (tau - tau_t) C_t, (O, I)."""
    return np.asarray(2 * (tau_OI @ gram_II - wanted_OI))


def descended(start_OI: F64, wanted_OI: F64, gram_II: F64, steps: int, rate: float) -> F64:
    """Adam's steps on the square, from `start_OI` on."""
    tau_OI, first_OI, second_OI = start_OI, np.zeros_like(start_OI), np.zeros_like(start_OI)
    for step in range(1, steps + 1):
        slope_OI = gradient(tau_OI, wanted_OI, gram_II)
        first_OI = BETA1 * first_OI + (1 - BETA1) * slope_OI
        second_OI = BETA2 * second_OI + (1 - BETA2) * slope_OI**2
        size_OI = np.sqrt(second_OI / (1 - BETA2**step)) + EPSILON
        tau_OI = tau_OI - rate * first_OI / (1 - BETA1**step) / size_OI
    return tau_OI
