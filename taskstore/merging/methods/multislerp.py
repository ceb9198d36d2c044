"""`multislerp`: the mean direction of several task vectors, with their mean length.

    tau = (sum_s w_s |tau_s|) u / |u|,   u = sum_s w_s tau_s / |tau_s|        per tensor

with the w over their sum (`normalize` 1). This is barycentric interpolation on the sphere in the
tangent space at the weighted mean u, where the weighted tangents cancel (mergekit's documentation).
With a `base_weight` above 0 the points are the models' weights and the base is one of them.
A zero vector has no direction and counts with its length.
"""

from __future__ import annotations

import numpy as np

from taskstore.errors import InputError
from taskstore.merging.methods.api import Info, Option
from taskstore.merging.methods.spherical import (
    BASE_WEIGHT,
    PARALLEL,
    Spherical,
    Table,
    as_vector,
    of_weights,
)


class MultiSlerp(Spherical):
    INFO = Info(
        "Multi-SLERP",
        "tau = sum w_s |tau_s| times the direction of sum w_s tau_s / |tau_s|",
        "Goddard et al., MergeKit, arXiv 2403.13257",
        (BASE_WEIGHT, Option("normalize", 1, 0, 1, "1: weights over their sum", whole=True)),
        packs=False,
    )

    def _factors(self, table_PP: Table, weight_S: Table) -> Table:
        base = self.options["base_weight"]
        if base:
            weight_P = np.concatenate([[base], weight_S])
            return as_vector(self._mean(of_weights(table_PP), weight_P))
        return np.concatenate([[0.0], self._mean(table_PP[1:, 1:], weight_S)])

    def _mean(self, table: Table, weights: Table) -> Table:
        if self.options["normalize"]:
            total = weights.sum()
            if abs(total) < 1e-12:
                raise InputError("the weights of multislerp add up to 0; give others")
            weights = weights / total
        lengths = np.sqrt(table.diagonal())
        factors = np.divide(weights, lengths, out=np.zeros_like(lengths), where=lengths > 0)
        mean = np.sqrt(max(0.0, factors @ table @ factors))
        length = float(weights @ lengths)
        found: Table = factors * (length / mean if mean > PARALLEL else 0.0)
        return found
