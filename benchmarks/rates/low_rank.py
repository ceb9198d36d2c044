"""Baselines of low rank: singular triples of each matrix, alone, in few bits, under or over codes.

Norms and biases have no factors; they are bf16 vectors of 16 bits. Legend as in methods.py.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from benchmarks.rates.methods import Coded, stepped
from benchmarks.rates.vectors import Vectors, matrix

_NORMAL = {2: 0.9957, 3: 0.5860}  # even steps of least error for a normal distribution (Max, 1960)


def tsv(vectors: Vectors, rate: float) -> Coded:
    """The largest singular triples of each matrix (TSV compress, arXiv 2412.00081).

    k = share of min(m, n) as in the paper, the share such that all costs about `rate` bits per
    weight: k (m + n) numbers in bf16, singular values multiplied into one factor.
    """
    share = _share(vectors, rate)

    def code(tau: Tensor) -> tuple[Tensor, float]:
        left, right = _factors(tau, share)
        back = left.bfloat16().float() @ right.bfloat16().float().mT
        return back, 16.0 * (left.numel() + right.numel())

    return _by_matrix(vectors, code)


def tsv8(vectors: Vectors, share: float) -> Coded:
    """The same with factors in 8 bits: 255 even steps and an fp16 scale per column of a factor.

    `share` of min(m, n) singular triples; 0: one of T, as in the paper. Singular values are in the
    scales. Codes cost the smaller of 8 bits and their entropy, matrix by matrix.
    """
    share = share or 1 / vectors.tasks
    return _by_matrix(vectors, lambda tau: _product(*_factors(tau, share), 8))


def delta_come(vectors: Vectors, share: float) -> Coded:
    """Singular triples in 8, 3 and 2 bits (Delta-CoMe, arXiv 2406.08903), rounded without data.

    Of the `share` of min(m, n) triples that are kept a fiftieth has 8 bits (one at least), a third
    3 and the others 2: about as there, 2, 32 and 64 of 4,096.
    """

    def code(tau: Tensor) -> tuple[Tensor, float]:
        left, right = _factors(tau, share)
        k = left.shape[1]
        first = max(1, round(k / 50))
        second = min(k, first + round(k / 3))
        back, spent = torch.zeros_like(tau), 0.0
        for (start, end), width in zip(pairwise((0, first, second, k)), (8, 3, 2), strict=True):
            if start < end:
                some, cost = _product(left[:, start:end], right[:, start:end], width)
                back += some
                spent += cost
        return back, spent

    return _by_matrix(vectors, code)


def quantised_rest(vectors: Vectors, share: float, width: int) -> Coded:
    """Factors in 8 bits, and what they leave in 2^width even steps, as `tvq` has them."""
    first = tsv8(vectors, share)
    thetas, bits = [], []
    for tau_N, theta_N, spent in zip(vectors.tau_TN, first.thetas, first.bits_T, strict=True):
        factors_N = theta_N.float() - vectors.base_N.float()
        rest_N, more = stepped(vectors, tau_N - factors_N, width)
        thetas.append(vectors.moved(factors_N + rest_N))
        bits.append(spent + more)
    return Coded(thetas, bits)


def d_qrelo(vectors: Vectors, share: float) -> Coded:
    """Signs and their mean magnitude, then factors of what these miss (arXiv 2604.16940).

    One fp16 magnitude per matrix; factors in 8 bits.
    """

    def code(tau: Tensor) -> tuple[Tensor, float]:
        size = tau.abs().mean().half().float()
        signs = torch.where(tau >= 0, size, -size)
        back, spent = _product(*_factors(tau - signs, share), 8)
        return signs + back, spent + tau.numel() + 16

    return _by_matrix(vectors, code)


def _by_matrix(vectors: Vectors, code: Callable[[Tensor], tuple[Tensor, float]]) -> Coded:
    """`code`: a matrix (m, n) -> how it comes back, and its bits."""
    thetas, bits = [], []
    for tau_N in vectors.tau_TN:
        back_N, spent = tau_N.bfloat16().float(), 0.0
        for where, shape in vectors.tensors():
            if size := matrix(shape):
                back, cost = code(tau_N[where].view(size))
                back_N[where] = back.reshape(-1)
                spent += cost
            else:
                spent += 16 * shape.numel()
        thetas.append(vectors.moved(back_N))
        bits.append(spent)
    return Coded(thetas, bits)


def _factors(tau: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """(m, k) and (n, k), singular values in the first."""
    u, s, v = torch.linalg.svd(tau, full_matrices=False)
    k = _rank((tau.shape[0], tau.shape[1]), share)
    return u[:, :k] * s[:k], v[:k].mT


def _product(left: Tensor, right: Tensor, width: int) -> tuple[Tensor, float]:
    """Of two factors in so many bits, and what they cost."""
    (a, cost), (b, more) = _even(left, width), _even(right, width)
    return a @ b.mT, cost + more


def _even(factor: Tensor, width: int) -> tuple[Tensor, float]:
    """A factor (m, k) in even steps, an fp16 scale per column, and what it costs."""
    if width in _NORMAL:
        scale = factor.square().mean(0).sqrt().clamp(min=1e-7).half().float() * _NORMAL[width]
        half = 2 ** (width - 1)
        codes = (factor / scale).floor().clamp(-half, half - 1) + 0.5
    else:
        half = 2 ** (width - 1) - 1
        scale = (factor.abs().amax(0) / half).clamp(min=1e-7).half().float()
        codes = (factor / scale).round().clamp(-half, half)
    counts = torch.bincount((codes + half).long().reshape(-1))
    counts = counts[counts > 0].double()
    entropy = float(-(counts * (counts / factor.numel()).log2()).sum())
    return codes * scale, min(float(width) * factor.numel(), entropy) + 16 * factor.shape[1]


def _rank(size: tuple[int, int], share: float) -> int:
    return min(min(size), max(1, round(share * min(size))))


def _cost(vectors: Vectors, share: float) -> float:
    """Bits of one task, all numbers in bf16."""
    numbers = 0
    for _, shape in vectors.tensors():
        size = matrix(shape)
        numbers += _rank(size, share) * sum(size) if size else shape.numel()
    return 16.0 * numbers


def _share(vectors: Vectors, rate: float) -> float:
    """The largest that costs no more, to a thousandth."""
    low, high = 0.0, 1.0
    while high - low > 1e-3:
        middle = (low + high) / 2
        if _cost(vectors, middle) <= rate * vectors.weights:
            low = middle
        else:
            high = middle
    return low
