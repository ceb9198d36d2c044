"""Least squares over a layer's inputs: sums of G_t and of tau_t G_t, and their solution.

    tau = (sum_t tau_t G_t + r tau') (sum_t G_t + r)^-1,    float64

G_t says what inputs a task has: measured (`regmean`), or guessed from its vector: tau_t^T tau_t
(`wudi`, `actmat`), since gradient steps add up inputs to the rows of a weight.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]
GRAM = "one matrix and Gram matrices of its inputs, (I, I) in float64: about 24 I^2 + 40 O I bytes"


def gram_bytes(shape: tuple[int, int]) -> int:
    """Bytes of three Gram matrices (the sum, one task's, the solver's) and five matrices."""
    outputs, inputs = shape
    return 8 * (3 * inputs * inputs + 5 * outputs * inputs)


def solve(wanted_OI: F64, gram_II: F64, ridge: float, towards_OI: F64) -> Any:
    """(wanted + r towards) (gram + r)^-1, float64 (O, I), r = `ridge` of the mean of its diagonal.

    So inputs that hardly any task has leave `towards`. `gram_II` and `wanted_OI` are written to.
    """
    size = len(gram_II)
    added = ridge * float(gram_II.diagonal().mean()) or 1.0
    gram_II[np.diag_indices(size)] += added
    wanted_OI += added * towards_OI
    return np.linalg.solve(gram_II, wanted_OI.T).T
