"""`della`: drop task vectors' values at random, the small ones of a row more often than the large.

    p_i = keep - epsilon + 2 epsilon r_i / (n - 1)      r_i = rank of |delta_i| in its row, n
    delta_i' = delta_i / p_i with probability p_i, else 0     (Deep et al., arXiv 2406.11617)

The paper's epsilon is the whole width, this one half of it, as in other tools. The expectation of
delta' is delta. A row is of the tensor's last dimension; a probability is at least 0 and at most 1.
Random numbers are those of `dare`: of a seed, task, tensor and place. Then another method merges.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from taskstore.merging.methods import philox
from taskstore.merging.methods.api import F32, Info, Method, Option, Scan, Vectors, Whole
from taskstore.merging.methods.over import Before, value_of


class Della(Before):
    INFO = Info(
        "DELLA",
        "p_i = keep -+ epsilon by the rank in its row; delta' = delta / p_i or 0; then "
        "another method",
        "Deep et al., arXiv 2406.11617",
        (
            Option("keep", 0.3, 1e-6, 1, "share of each task vector that is kept"),
            Option("epsilon", 0.1, 0, 0.5, "how far the share goes up and down with the rank"),
            Option("seed", 0, 0, 2**53, "another one drops others", whole=True),
            Option("divide", 1, 0, 1, "0: what is kept stays as it is", whole=True),
        ),
        stage="before",
        packs=False,
    )
    rows = True

    varied = ("keep", "epsilon")

    def __init__(self, inner: Method, **options: float) -> None:
        super().__init__(inner, **options)

    def _look(self, scan: Scan) -> None:
        self._names = scan.names

    def _change(self, block: Vectors) -> Vectors:
        width = block.shape[-1] if block.shape else 1
        rows = zip(block.tau_SN, block.rows, strict=True)
        changed = [self._drop(tau_N, width, t, block.tensor, block.start) for tau_N, t in rows]
        return replace(block, tau_SN=np.stack(changed))

    def _change_task(self, tau_OI: F32, matrix: Whole, s: int) -> F32:
        flat = tau_OI.reshape(-1)
        changed = self._drop(flat, tau_OI.shape[1], matrix.rows[s], matrix.tensor, 0)
        return changed.reshape(tau_OI.shape)

    def _drop(self, tau_N: F32, width: int, t: int, tensor: str, start: int) -> F32:
        stream = philox.stream(int(self.options["seed"]), self._names[t], tensor)
        words_N = np.empty(tau_N.size, np.uint32)
        philox.words(stream, start, words_N)
        share, epsilon = (value_of(v, t) for v in self._values.values())
        step = 2 * epsilon / max(1, width - 1)
        order = np.abs(tau_N.reshape(-1, width)).argsort(axis=1, kind="stable")
        keep = np.empty(order.shape)
        chance = np.clip(share - epsilon + step * np.arange(width), 0, 1)
        np.put_along_axis(keep, order, np.broadcast_to(chance, order.shape), axis=1)
        keep_N = keep.reshape(-1)
        kept_N = words_N < keep_N * 2.0**32
        if not self.options["divide"]:
            return tau_N * kept_N
        return np.divide(tau_N, keep_N.astype(np.float32), out=np.zeros_like(tau_N), where=kept_N)
