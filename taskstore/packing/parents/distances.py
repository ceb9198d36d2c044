"""Measures what each task of a family takes against the base, and against each other task.

Short runs of weights, spread evenly over all that tasks share, are coded just as they would be. So
the figures are bytes of an archive, not a guess from lengths and angles. What a task takes given
another is about what the other takes given it, so each pair is coded once.

Legend: T = nodes: the base, then the tasks.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from taskstore.executors import Executor
from taskstore.format.tiers import ABOVE, Bits, BlockSpec
from taskstore.kernels import cpu
from taskstore.models import Checkpoint
from taskstore.models.compare import Plan
from taskstore.models.family import Family
from taskstore.packing.options import PackOptions

F64 = NDArray[np.float64]
RUN = 1 << 10  # weights of a run
LARGEST, SMALLEST, ALL_PAIRS = 1 << 17, 1 << 13, 1 << 26  # weights of a task that are looked at


@dataclass(frozen=True)
class Run:
    """Elements [start, stop) of a tensor that the base has."""

    name: str
    start: int
    stop: int


Weights = tuple[Bits, str]  # and their dtype


@dataclass(frozen=True)
class Samples:
    """Weights of each node that has them, by the number of the run."""

    runs: list[Run]
    shapes: Mapping[str, tuple[int, ...]]
    nodes: Sequence[Mapping[int, Weights]]
    options: PackOptions
    names: list[str]

    @property
    def one_in(self) -> float:
        """Return how many weights there are for each that is looked at."""
        seen = sum(run.stop - run.start for run in self.runs)
        return sum(map(math.prod, self.shapes.values())) / max(1, seen)

    def only(self, runs: Collection[int]) -> Samples:
        """Return those of some runs."""
        some = [{i: w for i, w in node.items() if i in runs} for node in self.nodes]
        return replace(self, nodes=some)


def measure(family: Family, plan: Plan, options: PackOptions, executor: Executor) -> F64:
    """Return (T, T): about the bytes of a node (second) coded against another (first).

    Raises NotFinite where a rest is to be coded of what has none.
    """
    tasks = len(family.tasks)
    samples = sample(family, plan, options, executor, most_of(tasks))
    pairs = [(given, of) for of in range(1, tasks + 1) for given in range(of)]
    cost_TT = np.zeros((tasks + 1, tasks + 1))
    for (given, of), found in zip(pairs, executor.map(cost, samples, pairs), strict=True):
        cost_TT[given, of] = cost_TT[of, given] = found
    return cost_TT * samples.one_in


def most_of(tasks: int) -> int:
    """Return how many weights of each task are looked at, where all pairs are coded."""
    return min(LARGEST, max(SMALLEST, ALL_PAIRS // (tasks * (tasks + 1) // 2)))


def sample(
    family: Family, plan: Plan, options: PackOptions, executor: Executor, most: int, run: int = RUN
) -> Samples:
    """Read about `most` weights of each model of a family, in runs."""
    first = options.tier_names[0]
    having = {n: t for n in sorted(family.base.tensors) if (t := plan.tasks_of(n, first))}
    runs = _spread({name: family.base.tensors[name].numel for name in having}, most, run)
    wanted = [
        (model, [i for i, run in enumerate(runs) if not t or t - 1 in having[run.name]])
        for t, model in enumerate((family.base, *family.tasks))
    ]
    shapes = {name: family.base.tensors[name].shape for name in having}
    nodes = list(executor.map(_weights, runs, wanted))
    return Samples(runs, shapes, nodes, options, [model.name for model, _ in wanted])


def _spread(sizes: Mapping[str, int], most: int, size_of_run: int) -> list[Run]:
    """Spread runs over tensors, about `most` elements in all; all where those are fewer."""
    ends = np.cumsum([*sizes.values()], dtype=np.int64)
    every = int(ends[-1]) if sizes else 0
    if every <= most:
        return [Run(name, 0, size) for name, size in sizes.items() if size]
    runs, names = dict[Run, None](), list(sizes)
    for at in np.linspace(0, every - 1, most // size_of_run).astype(np.int64).tolist():
        i = int(np.searchsorted(ends, at, side="right"))
        size = sizes[names[i]]
        start = max(0, min(at - int(ends[i]) + size, size - size_of_run))
        runs[Run(names[i], start, min(start + size_of_run, size))] = None
    return list(runs)


def _weights(runs: list[Run], wanted: tuple[Checkpoint, list[int]]) -> dict[int, Weights]:
    model, chosen = wanted
    return {
        i: (model.read(run.name, run.start, run.stop), model.tensors[run.name].dtype)
        for i in chosen
        for run in (runs[i],)
    }


def cost(samples: Samples, pair: tuple[int, int]) -> int:
    """Code the runs of a task given another's, or the base's; returns bytes."""
    given, of = pair
    by_dtype = dict[str, list[int]]()
    for i, (_, dtype) in samples.nodes[of].items():
        by_dtype.setdefault(dtype, []).append(i)
    return sum(_coded(samples, given, of, chosen, d) for d, chosen in by_dtype.items())


def _coded(samples: Samples, given: int, of: int, chosen: list[int], dtype: str) -> int:
    """Code some runs of one dtype; what the parent lacks is coded against the base."""
    base, parent = samples.nodes[0], samples.nodes[given]
    theta = [samples.nodes[of][i][0] for i in chosen]
    w0 = [cpu.cast(*base[i], dtype) for i in chosen]
    if given:
        below = [cpu.cast(*parent.get(i, base[i]), dtype) for i in chosen]
    elif "rest" in samples.options.tier_names:
        places = zip(chosen, theta, w0, strict=True)
        below = [
            ABOVE["rest"].encode(w_N, w0_N, _spec(samples, of, dtype, samples.runs[i]))[1]
            for i, w_N, w0_N in places
        ]
    else:
        below = w0
    below_M = np.concatenate(below)
    lineage = (below_M, np.concatenate(w0)) if given else None
    spec = _spec(samples, of, dtype, samples.runs[chosen[0]], lineage)
    return sum(map(len, ABOVE["exact"].encode(np.concatenate(theta), below_M, spec)[0]))


def _spec(
    samples: Samples, of: int, dtype: str, run: Run, lineage: tuple[Bits, Bits] | None = None
) -> BlockSpec:
    task, options = samples.names[of], samples.options
    return BlockSpec(
        dtype=dtype,
        shape=samples.shapes[run.name],
        start=run.start,
        step=2.0 ** (2 - options.bits_of(task)),
        archive=options.level == "archive",
        label=(task, run.name),
        lineage=lineage,
    )
