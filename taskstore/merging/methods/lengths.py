"""What a trim takes of a task vector's length, tensor by tensor, and how to give it back.

    s = sum |tau| / sum |tau'|        per task and tensor, tau' the trimmed vector

mergekit's recipes ask for it (`rescale`). Sums are float64, so the size of blocks does not show.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from taskstore.merging.methods.api import F32, Option, Scan, Vectors

RESCALE = Option("rescale", 0, 0, 1, "1: trimmed vectors get back their L1 norm", whole=True)


def lost_lengths(scan: Scan, trim: Callable[[Vectors], F32]) -> dict[str, F32]:
    """Tensor -> s of all T tasks, float32 (T,); 1 where nothing is left, or the task lacks it."""
    sums: dict[str, Any] = {}
    for tensor, found_2T in scan.blocks(partial(_sums, len(scan.names), trim)):
        sums[tensor] = sums.get(tensor, 0) + found_2T
    ones_T = np.ones(len(scan.names))
    return {
        tensor: np.divide(whole_T, left_T, out=ones_T.copy(), where=left_T > 0).astype(np.float32)
        for tensor, (whole_T, left_T) in sums.items()
    }


def _sums(tasks: int, trim: Callable[[Vectors], F32], block: Vectors) -> Any:
    """Sums of magnitudes before and after the trim, float64 (2, T)."""
    found_2T = np.zeros((2, tasks))
    for sums_T, tau_SN in zip(found_2T, (block.tau_SN, trim(block)), strict=True):
        sums_T[block.rows] = np.abs(tau_SN).sum(1, dtype=np.float64)
    return found_2T
