"""`lawa`: the mean of the last k checkpoints of a run (Kaddour, arXiv 2306.03241).

The last are those whose names come last in natural order: checkpoint-500 before checkpoint-1000.
A tensor that none of them has stays the base's.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from taskstore.merging.methods.api import F32, Info, Method, Option, Scan, Vectors
from taskstore.merging.methods.mean import mean


class Lawa(Method):
    INFO = Info(
        "LAWA",
        "tau = mean of tau_t over the last k checkpoints of a run",
        "Kaddour, arXiv 2306.03241",
        (Option("k", 5, 1, 10_000, "checkpoints, the last of the run by their names", whole=True),),
        packs=False,
        weights=False,
    )

    def fit(self, scan: Scan) -> None:
        self._chosen_T = np.zeros(len(scan.names), np.float32)
        self._chosen_T[natural_order(scan.names)[-int(self.options["k"]) :]] = 1

    def merge(self, block: Vectors) -> F32:
        chosen_S = self._chosen_T[block.rows]
        if not chosen_S.any():
            return np.zeros(block.tau_SN.shape[1], np.float32)
        return mean(block.tau_SN, chosen_S, block.tensor)


def natural_order(names: Sequence[str]) -> list[int]:
    """Positions of the names in the order that sorts numbers in them as numbers."""

    def key(i: int) -> tuple[list[tuple[int, str]], str]:
        parts = re.split(r"([0-9]+)", names[i])
        return [(int(p), "") if n % 2 else (-1, p) for n, p in enumerate(parts)], names[i]

    return sorted(range(len(names)), key=key)
