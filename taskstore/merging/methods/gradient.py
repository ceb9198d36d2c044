"""`gradient`: task arithmetic, corrected for how the tasks' gradients mismatch.

    Hbar = delta_0 + s_0 H_0 + alpha sum_t s_t H_t
    tau  = alpha sum_t Hbar^-1 (delta_0 + s_0 H_0 + s_t H_t) tau_t    (Daheim et al., 2310.12808)

H_t is the diagonal of task t's Hessian, estimated by squared gradients. H_0 is the base's, 0 if it
was not measured. s_t is the task's weight: the size of its data if H is an average over them.
`delta_0` is the weight decay of pretraining over the size of its data, a small number in practice;
the authors use 1e-12. Checked against their code.

alpha stands in Hbar too, so it is an option, and the vector comes scaled by it.
"""

from __future__ import annotations

import numpy as np

from taskstore.merging.methods.api import F32, Info, Method, Option, Vectors, pieces
from taskstore.merging.methods.mean import check_positive


class Gradient(Method):
    INFO = Info(
        "Uncertainty-based gradient matching",
        "tau = alpha sum_t Hbar^-1 (delta0 + s_0 H_0 + s_t H_t) tau_t, "
        "Hbar = delta0 + s_0 H_0 + alpha sum_t s_t H_t",
        "Daheim et al., arXiv 2310.12808",
        (
            Option("alpha", 1, 1e-6, 100, "scale of the task vectors, inside Hbar too"),
            Option("delta0", 1e-12, 1e-25, 1e6, "precision of the base's prior"),
            Option("s0", 1, 0, 1e12, "scale of the base's Hessian: the size of its data"),
        ),
        statistics=("hessian",),
    )
    weighs = True

    def merge(self, block: Vectors) -> F32:
        check_positive(block.weight_S, block.tensor, "gradient")
        base_N = np.full(block.tau_SN.shape[1], np.float32(self.options["delta0"]))
        if "hessian_base" in block.statistics:
            base_N += np.float32(self.options["s0"]) * block.statistics["hessian_base"].reshape(-1)
        alpha, hessian_SN = np.float32(self.options["alpha"]), block.statistics["hessian"]
        return match(block.tau_SN, hessian_SN, base_N, block.weight_S, alpha)


def match(tau_SN: F32, hessian_SN: F32, base_N: F32, weight_S: F32, alpha: np.float32) -> F32:
    """`base_N` is delta_0 + s_0 H_0."""
    merged_N = np.zeros(tau_SN.shape[1], np.float32)
    for part in pieces(merged_N.size):
        merged, base = merged_N[part], base_N[part]
        total, own = np.zeros_like(merged), np.empty_like(merged)
        for tau, hessian, weight in zip(
            tau_SN[:, part], hessian_SN[:, part], weight_S, strict=True
        ):
            np.multiply(hessian, weight, out=own)
            total += own
            own += base
            own *= tau
            merged += own
        total *= alpha
        total += base
        merged /= total
        merged *= alpha
    return merged_N
