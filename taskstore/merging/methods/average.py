"""`average` and `warm`: theta = mean of theta_t, which is theta_0 + the mean of the task vectors.

`average` is the uniform soup (Wortsman et al., arXiv 2203.05482); with weights, tau = sum w tau /
sum w. `warm` is the same mean of reward models that were fine-tuned from one initialisation (Rame
et al., arXiv 2401.12187), so it needs at least two of them and their base.

A tensor that a fine-tune lacks is the mean of the others'.
"""

from __future__ import annotations

from taskstore.merging.methods.api import F32, Info, Method, Vectors
from taskstore.merging.methods.mean import mean


class Average(Method):
    INFO = Info(
        "Average, uniform soup",
        "tau = sum_t w_t tau_t / sum_t w_t",
        "Wortsman et al., arXiv 2203.05482",
        packs=False,
    )
    weighs = True

    def merge(self, block: Vectors) -> F32:
        return mean(block.tau_SN, block.weight_S, block.tensor)


class Warm(Average):
    INFO = Info(
        "WARM",
        "tau = sum_t w_t tau_t / sum_t w_t, of reward models from one initialisation",
        "Rame et al., arXiv 2401.12187",
        least=2,
        packs=False,
    )
