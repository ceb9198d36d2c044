"""Tier rest: what is missing below, quantised; added to the weights below and rounded once.

One word for one thing: the tier is the *rest*, its numbers are *quantised* (`Quantised` in memory,
codec `levels` on disk), and `--rest-bits BITS` asks for their rate.

Legend: N = elements of a block.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from taskstore.errors import NotFinite
from taskstore.format.codecs import factored, stream
from taskstore.format.codecs.levels import Levels, quantised
from taskstore.format.dtypes import numel
from taskstore.format.manifest import Manifest, Task
from taskstore.format.section import Layout
from taskstore.format.tiers.base import Bits, BlockSpec, Spot, Step, TierFile, tensors_with
from taskstore.kernels import cpu, floats
from taskstore.kernels.add_quantised import add
from taskstore.kernels.quantise import F32, MAX_STRETCH, Quantised

MIN_ROW = 64  # a row of fewer elements would pay too much for its step
BITS = 2.0  # from which on `levels` are as small
FEW, STRETCH_OF_FEW = 1.7, 8.0  # octaves per step above 2, up to this: few levels are not 0
FINER = 16  # vectors (norms, biases) are few and matter much: their steps are so much smaller
FINER_OF_FEW = 4  # so much at steps from 2.5 on: at few bits they would be a tenth of all
SMALL = 1 << 16  # elements of a tensor of one row that is as a vector below two bits


class Rest(TierFile):
    name = "rest"

    def layouts(self, manifest: Manifest, task: Task) -> dict[str, Layout]:
        """List float32 vectors over the base's rows of its tensors."""
        return {
            name: Layout(_codec(task, name), numel(base.shape), 4, manifest.chunk)
            for name, base in tensors_with(manifest, task, "rest").items()
        }

    def step(self, spot: Spot) -> Step:
        rest = spot.section(self.stem(spot.folder))

        def added(k: int, below_N: Bits, dtype: str) -> Bits:
            return _with(cpu.cast(below_N, dtype, spot.dtype), rest.quantised(k), spot.dtype)

        return added

    def encode(self, theta_N: Bits, below_N: Bits, spec: BlockSpec) -> tuple[list[bytes], Bits]:
        missing_N = np.empty(theta_N.size, np.float32)
        below_F = floats.to_float32(below_N, spec.dtype)
        if not cpu.task_vector(theta_N, spec.dtype, below_F, missing_N):
            raise NotFinite(*spec.label)
        codec = rest_codec(spec.shape, spec.start, spec.step, spec.codec == "factored")
        if spec.codec == "factored":
            streams, vector = _factored(codec, missing_N, spec)
        else:
            streams = codec.encode(missing_N.view(np.uint32), None)
            vector = quantised(streams, theta_N.size)
        rebuilt_N = _with(below_N, vector, spec.dtype)
        return [stream.store(one) for one in streams], rebuilt_N


def _codec(task: Task, name: str) -> str:
    entry = task.tensors[name]
    return (entry.codec if entry.kind == "rest" else None) or "levels"


def _factored(
    codec: Levels, missing_N: F32, spec: BlockSpec
) -> tuple[list[NDArray[np.uint8]], Quantised]:
    """Code a chunk over its part of low rank; the first has the factors before it."""
    part_N = factored.part_of(spec.low_rank, spec.start, missing_N.size)
    given_N = None if part_N is None else part_N.view(np.uint32)
    streams = codec.encode(missing_N.view(np.uint32), given_N)
    vector = factored.quantised(streams, missing_N.size)
    vector = factored.joined(vector, spec.low_rank, spec.start)
    before = factored.lead(spec.low_rank) if not spec.start else []
    return [*before, *streams], vector


def is_factored(shape: tuple[int, ...], bits: float) -> bool:
    """Tell whether a tensor's rest of so many bits is coded by `factored`."""
    columns = row_length(shape)
    return bits < BITS and columns > 0 and numel(shape) > columns


def levels_for(shape: tuple[int, ...], start: int, bits: float) -> Levels:
    """Make the codec of a chunk from element `start` on, for about `bits` bits per element."""
    return rest_codec(shape, start, 2.0 ** (2 - bits))


def rest_codec(shape: tuple[int, ...], start: int, step: float, few: bool = False) -> Levels:
    """Make the codec of a chunk by its step; `few`: it is `factored`."""
    if _is_vector(shape, step):
        return Levels(step / max(FINER / max(step, 1.0) ** 1.5, FINER_OF_FEW))
    columns = row_length(shape)
    if few:
        return factored.Factored(step, columns, start % columns, stretch_of(step))
    return Levels(step, columns, start % columns) if columns else Levels(step)


def stretch_of(step: float) -> float:
    """Return how far a row of a rest over a part of low rank is stretched, at most."""
    return float(min(max(MAX_STRETCH * 2.0 ** (FEW * (step - 2)), MAX_STRETCH), STRETCH_OF_FEW))


def _is_vector(shape: tuple[int, ...], step: float) -> bool:
    """Tell whether a tensor's steps are finer than those of matrices.

    Below two bits, so are those of small filters: a first layer of 7 x 7 patches, left with the
    steps of a matrix and without factors, had most of the error of a vision model.
    """
    if len(shape) < 2:
        return True
    return step > 1 and row_length(shape) in (0, numel(shape)) and numel(shape) <= SMALL


def row_length(shape: tuple[int, ...]) -> int:
    """Return the elements of a row with a step of its own; 0: a chunk has one step.

    A row is as many of the last dimensions as make MIN_ROW elements: a row of a matrix, a filter of
    a convolution.
    """
    if len(shape) < 2:
        return 0
    columns, dims = shape[-1], list(shape[:-1])
    while columns < MIN_ROW and len(dims) > 1:
        columns *= dims.pop()
    return columns if columns >= MIN_ROW else 0


def _with(below_N: Bits, vector: Quantised, dtype: str) -> Bits:
    """Return round(W + v) as bits of `dtype`, W where that is not finite."""
    w_N = np.empty_like(below_N)
    add(vector, below_N, w_N, dtype)
    return w_N
