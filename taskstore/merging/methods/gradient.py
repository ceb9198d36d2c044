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

from taskstore.kernels.jit import jit
from taskstore.merging.methods.api import BLOCK, F32, Info, Method, Option, Vectors
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


@jit
def match(tau_SN: F32, hessian_SN: F32, base_N: F32, weight_S: F32, alpha: np.float32) -> F32:
    """`base_N` is delta_0 + s_0 H_0."""
    tasks, n = tau_SN.shape
    merged_N = np.zeros(n, np.float32)
    total = np.empty(BLOCK, np.float32)
    for start in range(0, n, BLOCK):
        size = min(BLOCK, n - start)
        merged, base = merged_N[start : start + size], base_N[start : start + size]
        total[:] = np.float32(0)
        for s in range(tasks):
            tau, hessian = tau_SN[s, start : start + size], hessian_SN[s, start : start + size]
            weight = weight_S[s]
            for i in range(size):
                own = weight * hessian[i]
                total[i] += own
                merged[i] += (base[i] + own) * tau[i]
        for i in range(size):
            merged[i] = alpha * (merged[i] / (base[i] + alpha * total[i]))
    return merged_N
