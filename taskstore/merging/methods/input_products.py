"""Least squares over a layer's inputs: sums of G_t and of tau_t G_t, and their solution.

    tau = (sum_t tau_t G_t) (sum_t G_t + r)^-1,    float64

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


def solve(wanted_OI: F64, gram_II: F64, ridge: float) -> Any:
    """wanted (gram + r)^-1, float64 (O, I), r = `ridge` of the mean of gram's diagonal.

    `gram_II` is written to. All zeros give zeros.
    """
    size = len(gram_II)
    gram_II[np.diag_indices(size)] += ridge * float(gram_II.diagonal().mean()) or 1.0
    return np.linalg.solve(gram_II, wanted_OI.T).T
