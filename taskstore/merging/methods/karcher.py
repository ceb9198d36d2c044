"""`karcher`: the Karcher mean of the models' directions, with their mean length.

    u_s = theta_s / |theta_s|                                                   per tensor
    m  <- exp_m(mean_s log_m(u_s)), from the direction of the mean of the u_s
    theta = (mean_s |theta_s|) m

log_m(u) = angle / sin(angle) (u - <u, m> m) on the sphere, and exp_m goes back (Karcher 1977;
Riemannian centre of mass). It stops after `steps`, or where the mean of the logs is below `tol`.
The points are the fine-tunes' weights; a `base_weight` above 0 makes the base one of them. All are
equal, and m is a sum of them, so the table of their inner products is all that the steps need.
"""

from __future__ import annotations

import numpy as np

from taskstore.merging.methods.api import Info, Option
from taskstore.merging.methods.spherical import (
    BASE_WEIGHT,
    PARALLEL,
    Spherical,
    Table,
    as_vector,
    of_weights,
)


class Karcher(Spherical):
    INFO = Info(
        "Karcher mean",
        "m = exp_m(mean_s log_m(theta_s / |theta_s|)); theta = mean_s |theta_s| m",
        "Karcher, Comm. Pure Appl. Math. 1977; as in MergeKit, arXiv 2403.13257",
        (
            BASE_WEIGHT,
            Option("steps", 10, 1, 10_000, "most steps", whole=True),
            Option("tol", 1e-5, 0, 1, "the step at which it stops"),
        ),
        packs=False,
        weights=False,
    )

    def _factors(self, table_PP: Table, weight_S: Table) -> Table:
        table_PP = of_weights(table_PP)
        if self.options["base_weight"]:
            return as_vector(self._mean(table_PP))
        return as_vector(np.concatenate([[0.0], self._mean(table_PP[1:, 1:])]))

    def _mean(self, table: Table) -> Table:
        lengths = np.sqrt(np.maximum(table.diagonal(), 0))
        if not (there := lengths > 0).any():
            return np.zeros_like(lengths)
        unit = np.where(there, 1 / np.where(there, lengths, 1), 0.0)
        cosines = table * np.outer(unit, unit)
        m = _unit(there / there.sum(), cosines)
        for _ in range(int(self.options["steps"])):
            step = _mean_log(m, cosines, there)
            size = _length(step, cosines)
            if size < self.options["tol"] or not size:
                break
            m = _unit(np.cos(size) * m + np.sin(size) / size * step, cosines)
        found: Table = m * unit * (lengths.sum() / there.sum())
        return found


def _mean_log(m: Table, cosines: Table, there: Table) -> Table:
    """The mean of the logs of the points at m, as factors of the points."""
    cos = np.clip(cosines @ m, -1, 1)
    angle = np.arccos(cos)
    sine = np.sin(angle)
    scale = np.where(there & (sine > PARALLEL), angle / np.where(sine > PARALLEL, sine, 1), 0.0)
    found: Table = (scale - (scale @ cos) * m) / there.sum()
    return found


def _unit(m: Table, cosines: Table) -> Table:
    size = _length(m, cosines)
    return m / size if size > 0 else m


def _length(m: Table, cosines: Table) -> float:
    return float(np.sqrt(max(0.0, float(m @ cosines @ m))))
