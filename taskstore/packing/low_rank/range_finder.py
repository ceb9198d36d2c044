"""Finds the update of low rank that a merged adapter made: factors of whole numbers.

The weights are the base's plus a product of two thin matrices, rounded. Rounding is noise, about
uniform in a row whose weights are alike; so rows are taken relative to their root mean square, and
the largest components of the difference are the product, with noise in every factor. A component
of singular value S is kept where S^2 > KEPT (m + n) D, D the mean square of what is left. Factors
have steps of about STEP times their own noise: finer ones would code noise.

Legend: M = rows, N = columns of the matrix, R = rank.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taskstore.format.tiers.rest import row_length
from taskstore.kernels import cpu, floats
from taskstore.kernels.factored.update import (
    DTYPES,
    LARGEST,
    LARGEST_SHIFT,
    UNITS,
    Update,
    no_update,
)
from taskstore.models import Checkpoint, TensorInfo
from taskstore.packing.low_rank.components import svd

F64 = NDArray[np.float64]
I16 = NDArray[np.int16]
Bits = NDArray[Any]  # weights, uint16 or uint32
KEPT, STEP = 6.0, 1.2
RANK = 64  # of an update, at most
PASSES = 2  # of float32 weights, whose factors need more than sixteen bits
SKETCH = RANK + 8  # random mixtures of columns that a range is looked for in
WIDEST = 1 << 10  # columns of such a look
LARGEST_NUMBER = 32767
LEAST_RMS = 1e-30
MANTISSA = {dtype: bits for bits, dtype in DTYPES.items()}


def whole(task: Checkpoint, given: Checkpoint, base: TensorInfo, name: str) -> Update:
    """Return the update of a matrix, read whole, that a task is coded against."""
    dtype, n = task.tensors[name].dtype, base.numel
    theta_N = task.read(name, 0, n)
    given_N = cpu.cast(given.read(name, 0, n), given.tensors[name].dtype, dtype)
    return between(theta_N, given_N, dtype, row_length(base.shape))


def between(theta_N: Bits, given_N: Bits, dtype: str, columns: int) -> Update:
    """Return the update that leads from some weights to others, of whole rows."""
    x_MN, exponents_M = _relative(theta_N, given_N, dtype, columns)
    m, parts, most = len(x_MN), list[_Part](), RANK
    for _ in range(PASSES):
        part = _components(x_MN, most)
        if part is None:
            break
        parts.append(part)
        if not part.coarse:
            break
        x_MN -= part.product()
        most = 2 * part.exponents_R.size + 4
    exponents_R = np.concatenate([np.zeros(0), *(part.exponents_R for part in parts)])
    if not parts or exponents_R.size * (m + columns) > m * columns:
        return no_update(MANTISSA[dtype])
    low, lowest = int(exponents_R.min()), int(exponents_M.min())
    found = Update(
        columns,
        low + lowest,
        MANTISSA[dtype],
        (exponents_M - lowest).astype(np.uint8),
        (exponents_R - low).clip(0, LARGEST_SHIFT).astype(np.uint8),
        np.concatenate([part.left_RM for part in parts]),
        np.concatenate([part.right_RN for part in parts]),
    )
    right = exponents_R.max() - low <= LARGEST_SHIFT and found.unit in UNITS
    return found if right and found.largest() < LARGEST else no_update(MANTISSA[dtype])


@dataclass(frozen=True)
class _Part:
    """Components of whole numbers; `coarse`: sixteen bits were too few for some."""

    exponents_R: F64
    left_RM: I16
    right_RN: I16
    coarse: bool

    def product(self) -> F64:
        """Return the part, (M, N)."""
        by_size: F64 = self.left_RM.T * np.exp2(self.exponents_R)
        product_MN: F64 = by_size @ self.right_RN.astype(np.float64)
        return product_MN


def _components(x_MN: F64, most: int) -> _Part | None:
    """Find the components that are worth their factors; None where there are none."""
    m, n = x_MN.shape
    left_MR, sizes_R, right_NR = svd(x_MN, min(most, m, n))
    squares = sizes_R**2
    energy = float(np.einsum("ij,ij->", x_MN, x_MN))
    least = energy * 16 * float(np.finfo(np.float64).eps)  # that such numbers tell from noise
    left_over = np.maximum(energy - squares.cumsum(), least) / (m * n)
    kept = (squares > KEPT * (m + n) * left_over) & (squares > least)
    rank = int(np.append(kept, False).argmin())
    if not rank:
        return None
    noise = math.sqrt(float(left_over[rank - 1]))
    at_R = np.abs(right_NR[:, :rank]).argmax(0)
    signs_R = np.sign(right_NR[at_R, np.arange(rank)])
    left_MR = left_MR[:, :rank] * signs_R * math.sqrt(m)
    right_NR = right_NR[:, :rank] * signs_R * math.sqrt(n)
    size_R = sizes_R[:rank] / math.sqrt(m * n)
    finest_a, finest_b = (np.abs(f).max(0) / LARGEST_NUMBER for f in (left_MR, right_NR))
    step_a = np.maximum(STEP * noise / (size_R * math.sqrt(n)), finest_a)
    step_b = np.maximum(STEP * noise / (size_R * math.sqrt(m)), finest_b)
    exponents_R = np.ceil(np.log2(size_R * step_a * step_b))
    wider_R = np.sqrt(np.exp2(exponents_R) / (size_R * step_a * step_b))
    coarse = bool((step_a == finest_a).any() or (step_b == finest_b).any())
    left_RM, right_RN = (
        np.rint(f / (step * wider_R)).T.astype(np.int16)
        for f, step in ((left_MR, step_a), (right_NR, step_b))
    )
    return _Part(exponents_R, left_RM, right_RN, coarse)


def may_save(theta_N: Bits, given_N: Bits, dtype: str, columns: int) -> float:
    """Return about how many bits a weight of some rows takes less by a few directions.

    That is by how much less they leave than of noise. A random range finder (Halko, Martinsson,
    Tropp, arXiv 0909.4061) says so in one pass.
    """
    x_MN = _relative(theta_N, given_N, dtype, columns)[0][:, :WIDEST]
    m, n = x_MN.shape
    width = min(SKETCH, m // 2, n // 2)
    energy = float(np.einsum("ij,ij->", x_MN, x_MN))
    if not width or not energy:
        return 0.0
    range_MS, _ = np.linalg.qr(x_MN @ _mixtures()[:n, :width])
    inside = float(np.square(range_MS.T @ x_MN).sum())
    left_over = max(energy - inside, 1e-14 * energy) / (1 - width / m)
    return 0.5 * math.log2(energy / left_over)


@cache
def _mixtures() -> F64:
    return np.random.Generator(np.random.Philox(0)).standard_normal((WIDEST, SKETCH))


def _relative(
    theta_N: Bits, given_N: Bits, dtype: str, columns: int
) -> tuple[F64, NDArray[np.int64]]:
    """Return the difference of some rows, (M, N), over powers of two, and their exponents, (M,).

    It is float64: steps of factors are so much larger than its rounding that other machines, which
    sum in another order, find the same whole numbers. What is not finite counts as unmoved.
    """
    w_MN = floats.to_float32(theta_N, dtype).reshape(-1, columns)
    with np.errstate(invalid="ignore", over="ignore"):
        given_MN = floats.to_float32(given_N, dtype).reshape(-1, columns)
        x_MN = np.subtract(w_MN, given_MN, dtype=np.float64)
    odd = not np.isfinite(x_MN.sum(dtype=np.float64))
    if odd:
        x_MN, w_MN = (np.where(np.isfinite(x_MN), v, v.dtype.type(0)) for v in (x_MN, w_MN))
    rms_M = np.sqrt(np.einsum("ij,ij->i", w_MN, w_MN, dtype=np.float64) / columns)
    exponents_M = np.rint(np.log2(np.maximum(rms_M, LEAST_RMS))).astype(np.int64)
    exponents_M = np.maximum(exponents_M, exponents_M.max() - 255)
    return np.ldexp(x_MN, -exponents_M[:, None].astype(np.int32)), exponents_M
