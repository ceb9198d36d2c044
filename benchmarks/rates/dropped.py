"""UltraDelta (arXiv 2505.13563): four-bit steps, then most values dropped at random.

Matrices only, as in its authors' code. Of norms and biases that keeps nothing; here they are bf16
vectors of 16 bits. What is dropped is one more code, so positions cost their entropy.
"""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.rates.bits import of_codes
from benchmarks.rates.methods import Coded
from benchmarks.rates.vectors import Vectors, matrix

APART = 0.01  # what the third that varies least keeps less


def ultradelta(vectors: Vectors, keep: float, rescaled: bool = True) -> Coded:
    """A share `keep` of the values, times 1 / keep.

    `rescaled`: and times the ratio of the family's least trace norm to the vector's own.
    """
    random = torch.Generator().manual_seed(0)
    matrices = [(where, size) for where, shape in vectors.tensors() if (size := matrix(shape))]
    places = [where for where, _ in matrices]
    others = vectors.weights - sum(map(_length, places))
    backs, norms, bits = [], [], []
    for tau_N in vectors.tau_TN:
        codes_N, back_N, norm = torch.zeros_like(tau_N), tau_N.bfloat16().float(), 0.0
        for (where, size), share in zip(matrices, _shares(tau_N, places, keep), strict=True):
            codes_N[where], left = _dropped(tau_N[where], share, random)
            back_N[where] = left / keep
            norm += float(torch.linalg.matrix_norm(back_N[where].view(size), "nuc"))
        backs.append(back_N)
        norms.append(norm)
        bits.append(of_codes(vectors, codes_N, 5) + 64 * len(places) + 16 * others)
    if rescaled:
        for back_N, norm in zip(backs, norms, strict=True):
            for where in places:
                back_N[where] *= min(norms) / norm
    return Coded([vectors.moved(back_N) for back_N in backs], bits)


def _dropped(tau: Tensor, share: float, random: torch.Generator) -> tuple[Tensor, Tensor]:
    """Codes, 0 for what is dropped, of each value the same share; and the values that are left."""
    step = ((tau.max() - tau.min()) / 15).clamp(min=1e-30)
    codes = ((tau - tau.min()) / step).round() + 1
    values = tau.min() + (codes - 1) * step
    for code in range(1, 17):
        places = (codes == code).nonzero()[:, 0]
        order = torch.randperm(places.numel(), generator=random)
        codes[places[order[round(share * places.numel()) :]]] = 0
    return codes, torch.where(codes > 0, values, 0)


def _shares(tau_N: Tensor, places: list[slice], keep: float) -> list[float]:
    """What each matrix keeps: less where weights vary least, more where most, `keep` on average."""
    order = sorted(range(len(places)), key=lambda i: float(tau_N[places[i]].std()))
    total = sum(map(_length, places))
    shares = [0.0] * len(places)
    done, left, last = 0, keep * total, []
    for i in order:
        size = _length(places[i])
        done += size
        if done > total * 2 / 3:
            last.append(i)
            continue
        shares[i] = keep - APART if done <= total / 3 else keep
        left -= shares[i] * size
    for i in last:
        shares[i] = min(1.0, max(0.01, left / sum(_length(places[j]) for j in last)))
    return shares


def _length(where: slice) -> int:
    return int(where.stop - where.start)
