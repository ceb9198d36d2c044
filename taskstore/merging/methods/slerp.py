"""`slerp`: from the base to one fine-tune along a sphere.

    omega = angle of theta_0 and theta_1, per tensor
    theta = (sin((1 - t) omega) theta_0 + sin(t omega) theta_1) / sin omega      (Shoemake 1985)

Lengths stay in: directions alone decide omega. Where |cos omega| > 0.9995 the path is straight, as
other tools have it, for sin omega is no divisor there.
"""

from __future__ import annotations

import numpy as np

from taskstore.merging.methods.api import F32, Info, Option, Vectors, Whole
from taskstore.merging.methods.spherical import (
    BY,
    Spherical,
    Table,
    as_vector,
    between,
    by_lines,
    of_weights,
)

STRAIGHT = 0.9995


class Slerp(Spherical):
    INFO = Info(
        "Spherical interpolation",
        "theta = (sin((1 - t) w) theta_0 + sin(t w) theta_1) / sin w, w their angle",
        "Shoemake, SIGGRAPH 1985; as in MergeKit, arXiv 2403.13257",
        (
            Option("t", 0.5, -100, 100, "0: the base, 1: the fine-tune"),
            Option("straight", STRAIGHT, 0, 1, "|cosine| above which the path is straight"),
            BY,
        ),
        most=1,
        packs=False,
        weights=False,
        whole=True,
        memory="with by=1 or 2 four matrices",
    )

    def wants_whole(self, tensor: str, shape: tuple[int, ...]) -> bool:
        return bool(self.options["by"]) and len(shape) == 2

    def matrix_bytes(self, shape: tuple[int, int], tasks: int) -> int:
        return 4 * shape[0] * shape[1] * (2 * tasks + 2)

    def merge_whole(self, matrix: Whole) -> F32:
        ours, theirs = matrix.by_blocks(_theta0), matrix.read(0)
        theirs += ours
        axis = 1 if self.options["by"] == 1 else 0
        found = by_lines(ours.copy(), theirs, axis, self.options["t"], self.options["straight"])
        found -= ours
        return found

    def _factors(self, table_PP: Table, weight_S: Table) -> Table:
        table_PP = of_weights(table_PP)
        t, straight = self.options["t"], self.options["straight"]
        return as_vector(between(t, table_PP[0, 0], table_PP[1, 1], table_PP[0, 1], straight))


def _theta0(block: Vectors) -> F32:
    return np.array(block.theta0_N)
