"""The tiers above the first: what each adds to one task's block, and what is rebuilt with it.

Tiers build on each other, mask, rest, exact: each codes what is missing between what the tiers
below it rebuild (the base's weights, where there are none) and the fine-tune.

Legend: N = elements of a block.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from taskstore.errors import NotFinite
from taskstore.format.codecs import stream
from taskstore.format.codecs.levels import Levels, quantised
from taskstore.kernels import cpu, floats
from taskstore.kernels.add_quantised import add
from taskstore.kernels.quantise import Quantised

Bits = NDArray[Any]
MIN_ROW = 64  # a row of fewer elements would pay too much for its step
FINER = 16  # vectors (norms, biases) are few and matter much: their steps are so much smaller


def levels_for(shape: tuple[int, ...], start: int, bits: float) -> Levels:
    """The codec of a chunk that begins at element `start`, for about `bits` bits per element.

    A row is as many of the last dimensions as make MIN_ROW elements: a row of a matrix, a filter of
    a convolution.
    """
    step = 2.0 ** (2 - bits)
    if len(shape) < 2:
        return Levels(step / FINER)
    columns, dims = shape[-1], list(shape[:-1])
    while columns < MIN_ROW and len(dims) > 1:
        columns *= dims.pop()
    return Levels(step, columns, start % columns) if columns >= MIN_ROW else Levels(step)


def rest(
    codec: Levels, theta_N: Bits, below_N: Bits, dtype: str, label: tuple[str, str]
) -> tuple[list[bytes], Bits]:
    """Stored streams of what is missing, and the weights with it; all bits of `dtype`.

    `label` names task and tensor where that is not finite: raises NotFinite.
    """
    missing_N = np.empty(theta_N.size, np.float32)
    if not cpu.task_vector(theta_N, dtype, floats.to_float32(below_N, dtype), missing_N):
        raise NotFinite(*label)
    streams = codec.encode(missing_N.view(np.uint32), None)
    vector = quantised(streams, theta_N.size)
    return [stream.store(one) for one in streams], with_rest(below_N, vector, dtype)


def moved(w0_N: Bits, w1_N: Bits, dtype: str) -> Bits:
    """How far W1 is from W0, bits of float32: what masks are coded given, at the archive level."""
    return (floats.to_float32(w1_N, dtype) - floats.to_float32(w0_N, dtype)).view(np.uint32)


def with_rest(below_N: Bits, vector: Quantised, dtype: str) -> Bits:
    """round(W + v) as bits of `dtype`, W where that is not finite."""
    w_N = np.empty_like(below_N)
    add(vector, below_N, w_N, dtype)
    return w_N
