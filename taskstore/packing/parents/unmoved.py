"""Chooses the codec of exact tensors: `sparse` where few weights moved and a sample is smaller."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from taskstore.executors import Executor
from taskstore.format.dtypes import MASKED
from taskstore.format.tiers import ABOVE, Bits, BlockSpec
from taskstore.format.tiers.exact import codec_of_own
from taskstore.kernels import cpu
from taskstore.models import Checkpoint
from taskstore.models.compare import Plan
from taskstore.models.family import Family
from taskstore.packing.options import PackOptions
from taskstore.packing.plan import with_codecs

RUN = 1 << 14  # weights of a run that is looked at
LONG = 1 << 16  # of one that is coded
RUNS = 4  # of each, spread evenly
GAIN, LEAST = 0.02, 256  # share and bytes of a sample that it must save; samples are not all
GAIN_OF_CHILD = 1 / 3  # where it takes as long to decode as ten tasks of a chain
STILL = 0.5  # share of weights that did not move, below which nothing is coded


@dataclass(frozen=True)
class _Pair:
    """A task and what it is coded against, the base's weights, and the options."""

    task: Checkpoint
    parent: Checkpoint
    base: Checkpoint
    has_parent: bool
    options: PackOptions


def choose(
    family: Family,
    plan: Plan,
    options: PackOptions,
    parents: Mapping[str, str],
    executor: Executor,
) -> Plan:
    """Return the plan, with the codec of each exact tensor that has not the usual one.

    That is `sparse` where it codes a sample smaller.
    """
    tasks = {task.name: task for task in family.tasks}
    found = dict[str, dict[str, str]]()
    for task, planned in zip(family.tasks, plan.tasks, strict=True):
        parent = tasks.get(parents.get(task.name, ""))
        pair = _Pair(task, parent or family.base, family.base, parent is not None, options)
        names = [n for n, entry in planned.items() if entry.kind == "exact"]
        if options.tiers_of(task.name) != ("exact",):
            names = []
        few = executor.map(_is_few, pair, names)
        own = {n: "sparse" if f else _own(pair, n) for n, f in zip(names, few, strict=True)}
        found[task.name] = {name: codec for name, codec in own.items() if codec is not None}
    return with_codecs(family, plan, found)


def _own(pair: _Pair, name: str) -> str | None:
    """Return the codec of a tensor of which many weights moved, None for the usual one."""
    info = pair.task.tensors[name]
    if pair.options.level == "archive" or (pair.has_parent and name in pair.parent.tensors):
        return None
    return codec_of_own(info.dtype, pair.base.tensors[name].numel)


def _is_few(pair: _Pair, name: str) -> bool:
    dtype, base = pair.task.tensors[name].dtype, pair.base.tensors[name]
    if dtype not in MASKED or not base.numel or name not in pair.parent.tensors:
        return False
    n = min(base.numel, pair.task.tensors[name].numel, pair.parent.tensors[name].numel)
    looked = [_read(pair, name, start, stop) for start, stop in _runs(n, RUN)]
    still = sum(int(np.count_nonzero(theta == below)) for theta, below, _ in looked)
    if still < STILL * sum(theta.size for theta, _, _ in looked):
        return False
    in_chain = pair.has_parent and pair.options.level == "speed"
    sparse = usual = 0
    for start, stop in _runs(n, LONG):
        theta, below, w0 = _read(pair, name, start, stop)
        spec = BlockSpec(
            dtype=dtype,
            shape=base.shape,
            start=start,
            step=1,
            archive=pair.options.level == "archive",
            label=(pair.task.name, name),
            lineage=(below, w0) if pair.has_parent else None,
            codec=_own(pair, name),
        )
        exact = ABOVE["exact"]
        usual += sum(map(len, exact.encode(theta, below, spec)[0]))
        sparse += sum(map(len, exact.encode(theta, below, replace(spec, codec="sparse"))[0]))
    return usual - sparse > max(LEAST, (GAIN_OF_CHILD if in_chain else GAIN) * usual)


def _read(pair: _Pair, name: str, start: int, stop: int) -> tuple[Bits, Bits, Bits]:
    """Return a run of the task, of what it is coded against, and of the base, cast to its dtype."""
    dtype = pair.task.tensors[name].dtype
    theta, below, w0 = (
        cpu.cast(m.read(name, start, stop), m.tensors[name].dtype, dtype)
        for m in (pair.task, pair.parent, pair.base)
    )
    return theta, below, w0


def _runs(n: int, size: int) -> list[tuple[int, int]]:
    """Spread runs over n elements, each once."""
    starts = sorted({int(at) for at in np.linspace(0, max(0, n - size), RUNS)})
    return [(start, min(start + size, n)) for start in starts]
