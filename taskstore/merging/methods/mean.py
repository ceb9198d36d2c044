"""The weighted mean, which averages are made of and other methods fall back to.

    sum_t w_t tau_t / sum_t w_t        over the tasks that have the tensor

float32, one task after the other, so the result has one value on every machine.
"""

from __future__ import annotations

import numpy as np

from taskstore.errors import InputError
from taskstore.merging.methods.api import F32
from taskstore.merging.methods.sum import add_up


def mean(tau_SN: F32, weight_S: F32, tensor: str) -> F32:
    """The weighted mean, float32 (N,); raises InputError if the weights add up to 0."""
    total = float(weight_S.sum(dtype=np.float64))
    if abs(total) <= 1e-6 * float(np.abs(weight_S).sum(dtype=np.float64)):
        raise InputError(
            f"tensor {tensor!r}: the weights of its fine-tunes add up to 0, so they have no mean; "
            "give weights with another sum, or merge by sum"
        )
    merged_N = add_up(tau_SN, weight_S, np.zeros_like(weight_S))
    merged_N /= np.float32(total)
    return merged_N


def check_positive(weight_S: F32, tensor: str, method: str) -> None:
    """Raise InputError unless every weight is 0 or more and one is more."""
    if not ((weight_S >= 0).all() and weight_S.any()):
        raise InputError(
            f"tensor {tensor!r}: method {method!r} takes weights of 0 and more, one of them above 0"
        )
