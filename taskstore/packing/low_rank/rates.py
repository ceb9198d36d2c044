"""The step of a rest that takes so many bits, and the bits that a step takes.

Both are found on matrices that stand for all: their real factors, and some of their rows coded. A
task of few weights is looked at whole.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taskstore.errors import NotFinite
from taskstore.executors import Executor
from taskstore.format.codecs import factored as codec
from taskstore.format.codecs import stream
from taskstore.format.codecs.levels import quantised as dense
from taskstore.format.fidelity import of_sums
from taskstore.format.manifest import Sums
from taskstore.format.tiers.rest import is_factored, rest_codec, row_length
from taskstore.kernels import cpu, floats
from taskstore.kernels.products import four_sums
from taskstore.kernels.quantise import F32
from taskstore.models.compare import Plan
from taskstore.models.family import Family
from taskstore.packing.low_rank.components import Components, components, factored
from taskstore.packing.low_rank.importance import file_of, importance
from taskstore.packing.low_rank.shares import shares
from taskstore.packing.options import PackOptions

SIZE = 1 << 26  # weights of a task that are looked at
ROWS = 1 << 16  # of a matrix, that are coded
STEPS = (0.25, 24.0)
TRIES = 10  # halvings of the range between them
UNITS = 256  # of a bit, in which the fewest are told
TABLE = 150  # bytes of a section and of its line in the file's header that are no stream


@dataclass(frozen=True)
class Looked:
    """A tensor of a task: some of its rows, or all of a vector, and components of the whole.

    weight     how many weights of the task one of its weights stands for
    share      how many one of these rows does
    finer      its step, over the task's
    dtype      of the task; below_N bits of it, the base's
    theta0_N, tau_N, missing_N   float32: the base, the task vector, and what the rest has to add
    """

    name: str
    shape: tuple[int, ...]
    weight: float
    share: float
    finer: float
    dtype: str
    below_N: NDArray[Any]
    theta0_N: F32
    tau_N: F32
    missing_N: F32
    rows: NDArray[np.intp] | None = None
    parts: Components | None = None


@dataclass(frozen=True)
class Rates:
    """What tells a task's bits and error by its step."""

    looked: Sequence[Looked]
    weights: int
    executor: Executor
    known: dict[float, tuple[float, float]] = field(default_factory=dict)

    def of(self, step: float) -> tuple[float, float]:
        """Return the bits per weight of a rest of that step, and its error (format/fidelity.py)."""
        if step not in self.known:
            size, *sums = sum(self.executor.map(_measured, step, self.looked), np.zeros(5)).tolist()
            error = of_sums(Sums.of(sums)).error or 0.0
            self.known[step] = 8 * size / max(1, self.weights), error
        return self.known[step]

    def step(self, bits: float) -> float:
        """Return the finest step that takes no more bits; the coarsest, where none does."""
        return self._coarsest(lambda step: self.of(step)[0] > bits, finer=False)

    def fewest(self, most: float) -> float | None:
        """Return the bits of the coarsest step whose error is at most `most`, if there is one."""
        step = self._coarsest(lambda step: self.of(step)[1] <= most, finer=True)
        bits, error = self.of(step)
        return math.ceil(bits * UNITS) / UNITS if error <= most else None

    def _coarsest(self, fine: Callable[[float], bool], finer: bool) -> float:
        """Return the step next to the edge between fine ones and others."""
        low, high = 0, 1 << TRIES

        def step(k: int) -> float:
            return float(STEPS[0] * (STEPS[1] / STEPS[0]) ** (k / (1 << TRIES)))

        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if fine(step(middle)) else (low, middle)
        return step(low if finer else high)


def rates(family: Family, plan: Plan, t: int, executor: Executor, options: PackOptions) -> Rates:
    """Look at a task's rests; raises NotFinite."""
    base, planned = family.base.tensors, plan.tasks[t]
    named = sorted(n for n, e in planned.items() if e.kind == "rest" and base[n].numel)
    total = sum(base[name].numel for name in named)
    known = family, t, shares(base), file_of(options, family.tasks[t].name)
    looked = executor.map(_look, known, _some(family, named, total))
    return Rates([*looked], total, executor)


def _some(family: Family, named: Sequence[str], total: int) -> Iterator[tuple[str, float]]:
    """Yield tensors and weights: all vectors, and as many matrices as may be looked at."""
    base = family.base.tensors
    matrices = [name for name in named if is_factored(base[name].shape, 0)]
    yield from ((name, 1.0) for name in named if name not in set(matrices))
    order = np.random.Generator(np.random.Philox(0)).permutation(len(matrices))
    chosen, size = list[str](), 0
    for i in order.tolist():
        if size and size + base[matrices[i]].numel > SIZE:
            break
        chosen.append(matrices[i])
        size += base[matrices[i]].numel
    weight = sum(base[name].numel for name in matrices) / max(1, size)
    yield from ((name, weight) for name in sorted(chosen))


def _look(
    shared: tuple[Family, int, Mapping[str, float], Path | None], one: tuple[str, float]
) -> Looked:
    (family, t, finer, path), (name, weight) = shared, one
    task, info = family.tasks[t], family.base.tensors[name]
    dtype = task.tensors[name].dtype
    w0_N, theta_N = (model.read(name, 0, info.numel) for model in (family.base, task))
    theta0_N, tau_N = cpu.task_vector_of(theta_N, dtype, w0_N, info.dtype)
    below_N, missing_N = cpu.cast(w0_N, info.dtype, dtype), np.empty_like(tau_N)
    if not cpu.task_vector(theta_N, dtype, floats.to_float32(below_N, dtype), missing_N):
        raise NotFinite(task.name, name)
    known = name, info.shape, weight, 1.0, finer[name], dtype
    whole = Looked(*known, below_N, theta0_N, tau_N, missing_N)
    if not is_factored(info.shape, 0):
        return whole
    columns = row_length(info.shape)
    weights = importance(path, name, columns)
    parts = components(missing_N.reshape(-1, columns), importance=weights)
    rows = np.arange(0, info.numel // columns, -(-info.numel // ROWS))

    def some(x_N: NDArray[Any]) -> NDArray[Any]:
        return np.ascontiguousarray(x_N.reshape(-1, columns)[rows]).reshape(-1)

    return replace(
        whole,
        share=info.numel / (columns * rows.size),
        below_N=some(below_N),
        theta0_N=some(theta0_N),
        tau_N=some(tau_N),
        missing_N=some(missing_N),
        rows=rows,
        parts=parts,
    )


def _measured(step: float, one: Looked) -> NDArray[np.float64]:
    """Bytes and the four sums, float64 (5,)."""
    if one.parts is None:
        coded = rest_codec(one.shape, 0, step)
        streams = coded.encode(one.missing_N.view(np.uint32), None)
        lead, vector_N = TABLE, dense(streams, one.missing_N.size).values()
    else:
        assert one.rows is not None
        step *= one.finer
        low_rank = factored(one.parts, step)
        part_N = np.zeros(one.missing_N.size, np.float32)
        low_rank.some(one.rows).add(0, part_N)
        few = rest_codec(one.shape, 0, step, few=True)
        streams = few.encode(one.missing_N.view(np.uint32), part_N.view(np.uint32))
        lead = _size(codec.lead(low_rank)) + TABLE
        vector_N = codec.quantised(streams, part_N.size).values() + part_N
    below_F = floats.to_float32(one.below_N, one.dtype)
    rebuilt_N = cpu.add(below_F, vector_N, one.below_N, one.dtype)
    sums = four_sums(one.theta0_N, one.tau_N, rebuilt_N, one.dtype)
    return one.weight * np.array([lead + one.share * _size(streams), *(one.share * sums)])


def _size(streams: Sequence[Any]) -> int:
    return sum(len(stream.store(one)) for one in streams)
