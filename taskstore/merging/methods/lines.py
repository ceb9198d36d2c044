"""`lines`: a merged vector scaled by depth: little in shallow blocks, more in deep ones.

    s_l = a + b l / (L - 1)      for block l of L; a elsewhere               (arXiv 2410.17146)
    a = |sum_t tau_t| / (T |tau_MTL|), which is 1/T for the plain sum

a is `shallow` (0: from the norms, over all tensors), b is `beta`: found by validation there, on 0.1
to 1.0 (with TIES to 1.5), and 0.5 here. The scale of the whole is then 1. Checked against the
authors' code for images.

Blocks are numbered in the tensors' names: the first number of a name is the block, and what stands
before it the stack. A model may have several (an encoder and a decoder), each from a to a + b. A
stack of one block counts as elsewhere. Norms are added up in float64 and s_l is rounded to float32,
so the size of blocks does not show.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import partial

import numpy as np

from taskstore.errors import OptionError
from taskstore.merging.methods.api import F32, Info, Method, Option, Scan, Vectors, Whole
from taskstore.merging.methods.over import After, merged_below

NUMBER = re.compile(r"^(?:(.*?)\.)?(\d+)\.")


class Lines(After):
    INFO = Info(
        "LiNeS",
        "tau_l *= a + b l / (L - 1) for block l of L, a elsewhere; a = |sum tau_t| / (T |tau|)",
        "Wang et al., arXiv 2410.17146",
        (
            Option("shallow", 0, 0, 100, "a; 0: from the vectors' norms"),
            Option("beta", 0.5, 0, 100, "b, how much more the last block gets; 0.1 to 1.5"),
        ),
        stage="after",
        packs=False,
    )

    def __init__(self, inner: Method, **options: float) -> None:
        super().__init__(inner, **options)
        self.passes += not self.options["shallow"]

    def fit(self, scan: Scan) -> None:
        self._depth = depths(scan.shapes)
        if not self._depth:
            raise OptionError(
                "method 'lines' scales by the depth of blocks, and no tensor is of a numbered "
                "block (model.layers.0...); merge without it"
            )
        super().fit(scan)
        self._shallow = self.options["shallow"] or self._by_norms(scan)

    def _by_norms(self, scan: Scan) -> float:
        """|sum_t tau_t| / (T |tau_MTL|), 1 / T for zeros."""
        merged, summed = 0.0, 0.0
        for _, (sum_, own) in scan.blocks(partial(_squares, self._inner)):
            summed += sum_
            merged += own
        for tensor, shape in scan.shapes.items():
            if self._inner.wants_whole(tensor, shape):
                own_OI = merged_below(self._inner, scan.whole(tensor))
                merged += float(np.vdot(own_OI, own_OI))
        return ((summed / merged) ** 0.5 if merged else 1.0) / len(scan.names)

    def _scale(self, tensor: str) -> np.float32:
        return np.float32(self._shallow + self.options["beta"] * self._depth.get(tensor, 0))

    def _finish(self, block: Vectors, merged_N: F32) -> F32:
        return self._scale(block.tensor) * merged_N

    def _finish_whole(self, matrix: Whole, merged_OI: F32) -> F32:
        return self._scale(matrix.tensor) * merged_OI


def _squares(method: Method, block: Vectors) -> tuple[float, float]:
    """Squares of |sum_t tau_t| and of the merged vector, which is left out if it is made whole."""
    tau_SN = block.tau_SN * block.weight_S[:, None] if method.weighs else block.tau_SN
    sum_N = tau_SN.sum(0, dtype=np.float64)
    if method.wants_whole(block.tensor, block.shape):
        return float(sum_N @ sum_N), 0.0
    own_N = method.merge(block).astype(np.float64)
    return float(sum_N @ sum_N), float(own_N @ own_N)


def depths(names: Iterable[str]) -> Mapping[str, float]:
    """Tensor -> l / (L - 1), for those of numbered blocks."""
    return {name: layer / (of - 1) for name, (layer, of) in layers(names).items() if of > 1}


def layers(names: Iterable[str]) -> Mapping[str, tuple[int, int]]:
    """Tensor -> l and L, for those of numbered blocks."""
    found = {name: where for name in names if (where := NUMBER.match(name))}
    of: dict[str | None, int] = {}
    for where in found.values():
        of[where[1]] = max(of.get(where[1], 0), int(where[2]) + 1)
    return {name: (int(where[2]), of[where[1]]) for name, where in found.items()}
