"""The baselines, each a pure function: task vectors -> rebuilt models and their bits.

Formulas are those of the papers, in plain torch, independent of the library but for the size of a
merged vector (rates/bits.py). Every rebuilt model is rounded to the checkpoint's dtype.

Legend: N = weights of all shared tensors, T = tasks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from benchmarks.rates.bits import Merged, of_codes, of_merged
from benchmarks.rates.vectors import Vectors, matrix

Judge = Callable[[int, Tensor], float]  # task, its weights (N,) -> validation score


@dataclass
class Coded:
    """A family as a method keeps it; `shared_bits` once, `bits_T` for each task."""

    thetas: list[Tensor]  # T times (N,), the checkpoint's dtype
    bits_T: list[float]
    shared_bits: float = 0.0
    notes: dict[str, Any] = field(default_factory=dict)  # what was chosen, for the results

    @property
    def rate(self) -> float:
        """Bits per weight and task, the shared part included."""
        total = self.shared_bits + sum(self.bits_T)
        return total / len(self.thetas) / self.thetas[0].numel()


def total(vectors: Vectors) -> Tensor:
    """tau_MTL = sum_t tau_t (task arithmetic with alpha 1, arXiv 2212.04089)."""
    return vectors.tau_TN.sum(0)


def ties(vectors: Vectors, density: float = 0.2) -> Tensor:
    """Trim globally, elect signs, add what agrees (arXiv 2306.01708; the sum as TALL uses it)."""
    rank = vectors.weights - int(vectors.weights * density)
    trimmed_TN = torch.stack([_largest(tau_N, rank) * tau_N for tau_N in vectors.tau_TN])
    sign_N = trimmed_TN.sum(0).sign()
    sign_N[sign_N == 0] = sign_N.sum().sign()
    return (trimmed_TN * (trimmed_TN.sign() == sign_N)).sum(0)


def tall(vectors: Vectors, merged_N: Tensor, lam_T: Sequence[float]) -> Coded:
    """|tau_t| > lambda_t |tau_MTL - tau_t| chooses W1 (arXiv 2405.07813), else W0 stays."""
    stored = of_merged(vectors, merged_N)
    masks = [_tall(tau_N, lam, merged_N) for tau_N, lam in zip(vectors.tau_TN, lam_T, strict=True)]
    return _selected(vectors, stored, masks)


def tall_chosen(vectors: Vectors, merged_N: Tensor, grid: Sequence[float], judge: Judge) -> Coded:
    """The same with the lambda per task that scores best on validation data, ties to the first."""
    stored = of_merged(vectors, merged_N)
    chosen = []
    for t, tau_N in enumerate(vectors.tau_TN):
        scores = [
            judge(t, torch.where(_tall(tau_N, lam, merged_N), stored.w1_N, vectors.base_N))
            for lam in grid
        ]
        chosen.append(grid[scores.index(max(scores))])
    coded = tall(vectors, merged_N, chosen)
    coded.notes["lambda"] = chosen
    return coded


def magnitude(vectors: Vectors, keep: float) -> Coded:
    """The largest |tau_t|, a share `keep` of them, choose from the sum (baseline of TALL-masks)."""
    rank = vectors.weights - int(vectors.weights * keep)
    masks = [_largest(tau_N, rank) for tau_N in vectors.tau_TN]
    return _selected(vectors, of_merged(vectors, total(vectors)), masks)


def emr(vectors: Vectors) -> Coded:
    """Elect, mask, rescale (arXiv 2405.17461), one fp32 scale per task from the global ratio."""
    tau_TN = vectors.tau_TN
    sign_N = torch.where(tau_TN.mean(0) > 0, 1.0, -1.0)
    agrees_TN = tau_TN * sign_N > 0
    stored = of_merged(vectors, sign_N * (tau_TN.abs() * agrees_TN).amax(0))
    thetas, bits = [], []
    for tau_N, mask_N in zip(tau_TN, agrees_TN, strict=True):
        masked_N = mask_N * stored.vector_N
        scale = tau_N.abs().sum() / masked_N.abs().sum()
        thetas.append(vectors.moved(scale * masked_N))
        bits.append(of_codes(vectors, mask_N, 1) + 32)
    return Coded(thetas, bits, stored.bits)


def bitdelta(vectors: Vectors, planes: int) -> Coded:
    """Signs and the mean magnitude (arXiv 2402.10193, no distillation), again of what is missing.

    One fp16 scale per row, where the paper has one per matrix; a norm or a bias is one row.
    """
    thetas, bits = [], []
    for tau_N in vectors.tau_TN:
        missing_N, spent = tau_N.clone(), 0.0
        for _ in range(planes):
            spent += of_codes(vectors, missing_N >= 0, 1)
            for where, shape in vectors.tensors():
                rows = missing_N[where].view(matrix(shape) or (1, -1))  # a view: it is written to
                scale = rows.abs().mean(1, keepdim=True).half().float()
                rows -= torch.where(rows >= 0, scale, -scale)
                spent += 16 * rows.shape[0]
        thetas.append(vectors.moved(tau_N - missing_N))
        bits.append(spent)
    return Coded(thetas, bits)


def tvq(vectors: Vectors, width: int) -> Coded:
    """Task vectors in 2^width even steps per tensor (arXiv 2503.06921); scale and zero 64 bits."""
    coded = [stepped(vectors, tau_N, width) for tau_N in vectors.tau_TN]
    return Coded([vectors.moved(back_N) for back_N, _ in coded], [bits for _, bits in coded])


def rtvq(vectors: Vectors, base: int, width: int) -> Coded:
    """The vectors' mean in 2^base steps for all, what it misses of each in 2^width (the same)."""
    mean_N, shared = stepped(vectors, vectors.tau_TN.mean(0), base)
    coded = [stepped(vectors, tau_N - mean_N, width) for tau_N in vectors.tau_TN]
    thetas = [vectors.moved(mean_N + back_N) for back_N, _ in coded]
    return Coded(thetas, [bits for _, bits in coded], shared)


def stepped(vectors: Vectors, tau_N: Tensor, width: int) -> tuple[Tensor, float]:
    """A vector in even steps from its least to its largest value per tensor, and its bits."""
    codes_N, back_N = torch.empty_like(tau_N), torch.empty_like(tau_N)
    for where, _ in vectors.tensors():
        tau = tau_N[where]
        step = ((tau.max() - tau.min()) / (2**width - 1)).clamp(min=1e-30)
        zero = (-tau.min() / step).round()
        codes_N[where] = ((tau / step).round() + zero).clamp(0, 2**width - 1)
        back_N[where] = (codes_N[where] - zero) * step
    return back_N, of_codes(vectors, codes_N, width) + 64 * len(vectors.shapes)


def _selected(vectors: Vectors, stored: Merged, masks: list[Tensor]) -> Coded:
    """W1 where a mask says so. Bits whose choice cannot matter (W0 = W1) are cleared."""
    live_N = stored.w1_N != vectors.base_N
    return Coded(
        [torch.where(mask_N, stored.w1_N, vectors.base_N) for mask_N in masks],
        [of_codes(vectors, mask_N & live_N, 1) for mask_N in masks],
        stored.bits,
    )


def _tall(tau_N: Tensor, lam: float, merged_N: Tensor) -> Tensor:
    return tau_N.abs() > lam * (merged_N - tau_N).abs()


def _largest(tau_N: Tensor, rank: int) -> Tensor:
    """Magnitudes from the one of that rank (from 1) on, counted over the whole vector."""
    return tau_N.abs() >= tau_N.abs().kthvalue(max(1, rank)).values
