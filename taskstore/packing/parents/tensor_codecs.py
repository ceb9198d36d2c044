"""Chooses the codec of exact tensors by samples: `sparse` for few weights that moved, `low_rank`.

Rows of a matrix are looked for the trace of a merged adapter; see packing/low_rank/range_finder.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from taskstore.executors import Executor
from taskstore.format.codecs import low_rank
from taskstore.format.dtypes import MASKED
from taskstore.format.tiers import ABOVE, Bits, BlockSpec
from taskstore.format.tiers.exact import codec_of_own
from taskstore.format.tiers.rest import row_length
from taskstore.kernels import cpu
from taskstore.models import Checkpoint
from taskstore.models.compare import Plan
from taskstore.models.family import Family
from taskstore.packing.low_rank import range_finder
from taskstore.packing.low_rank.driver import one_thread
from taskstore.packing.options import PackOptions
from taskstore.packing.plan import with_codecs

RUN = 1 << 14  # weights of a run that is looked at
LONG = 1 << 16  # of one that is coded
RUNS = 4  # of each, spread evenly
GAIN, LEAST = 0.02, 256  # share and bytes of a sample that it must save; samples are not all
GAIN_OF_CHILD = 1 / 3  # where it takes as long to decode as ten tasks of a chain
WORTH = {"speed": (2.0, 0.25), "archive": (0.5, 0.02)}  # bits and share that factors must save
STILL = 0.5  # share of weights that did not move, below which nothing is coded
ROWS, ONE_ROW_IN = (16, 128), 8  # of a matrix that are looked at, at least and at most
ROWS_AT_A_TIME = 16
Place = tuple[int, int]  # elements [start, stop) of a tensor
Weights = tuple[Bits, Bits, Bits]  # of a task, of what it is coded against, of the base


@dataclass(frozen=True)
class _Pair:
    """A task and what it is coded against, the base's weights, and the options."""

    task: Checkpoint
    parent: Checkpoint
    base: Checkpoint
    has_parent: bool
    options: PackOptions

    @property
    def in_chain(self) -> bool:
        return self.has_parent and self.options.level == "speed"

    def coded(self, weights: Weights, spec: BlockSpec) -> int:
        """Return the bytes of a sample of a tensor."""
        theta, below, w0 = weights
        spec = replace(spec, lineage=(below, w0) if self.has_parent else None)
        return sum(map(len, ABOVE["exact"].encode(theta, below, spec)[0]))

    def spec(self, name: str, shape: tuple[int, ...], start: int) -> BlockSpec:
        return BlockSpec(
            dtype=self.task.tensors[name].dtype,
            shape=shape,
            start=start,
            step=1,
            archive=self.options.level == "archive",
            label=(self.task.name, name),
            codec=_own(self, name),
        )


def choose(
    family: Family,
    plan: Plan,
    options: PackOptions,
    parents: Mapping[str, str],
    executor: Executor,
) -> Plan:
    """Return the plan, with the codec of each exact tensor that has not the usual one."""
    tasks = {task.name: task for task in family.tasks}
    found = dict[str, dict[str, str]]()
    for task, planned in zip(family.tasks, plan.tasks, strict=True):
        parent = tasks.get(parents.get(task.name, ""))
        pair = _Pair(task, parent or family.base, family.base, parent is not None, options)
        names = [n for n, entry in planned.items() if entry.kind == "exact"]
        if options.tiers_of(task.name) != ("exact",):
            names = []
        with one_thread():
            own = dict(zip(names, executor.map(_choice, pair, names), strict=True))
        found[task.name] = {name: codec for name, codec in own.items() if codec is not None}
    return with_codecs(family, plan, found)


def _choice(pair: _Pair, name: str) -> str | None:
    """Return the codec that takes least of samples, None for the usual one.

    Factors are not looked for where few weights moved: those of a sample would fit its rows alone.
    """
    dtype, base = pair.task.tensors[name].dtype, pair.base.tensors[name]
    own = _own(pair, name)
    if dtype not in MASKED or not base.numel or name not in pair.parent.tensors:
        return own
    looked = {place: _read(pair, name, *place) for place in sorted(_places(pair, name))}
    if _is_few(pair, name, looked):
        return "sparse"
    return "low_rank" if _is_merged(pair, name, looked) else own


def _own(pair: _Pair, name: str) -> str | None:
    """Return the codec of a tensor of which many weights moved, None for the usual one."""
    info = pair.task.tensors[name]
    if pair.options.level == "archive" or (pair.has_parent and name in pair.parent.tensors):
        return None
    return codec_of_own(info.dtype, pair.base.tensors[name].numel)


def _places(pair: _Pair, name: str) -> set[Place]:
    """List where a tensor is looked at first; in order, no chunk of a store is decoded twice."""
    return {*_runs(_shared(pair, name), RUN), *(_rows(pair, name) or ())}


def _is_few(pair: _Pair, name: str, looked: Mapping[Place, Weights]) -> bool:
    """Tell whether few weights moved, and `sparse` codes a sample smaller."""
    base, n = pair.base.tensors[name], _shared(pair, name)
    some = [looked[place] for place in _runs(n, RUN)]
    still = sum(int(np.count_nonzero(theta == below)) for theta, below, _ in some)
    if still < STILL * sum(theta.size for theta, _, _ in some):
        return False
    sparse = usual = 0
    for start, stop in _runs(n, LONG):
        weights, spec = _read(pair, name, start, stop), pair.spec(name, base.shape, start)
        usual += pair.coded(weights, spec)
        sparse += pair.coded(weights, replace(spec, codec="sparse"))
    return usual - sparse > max(LEAST, (GAIN_OF_CHILD if pair.in_chain else GAIN) * usual)


def _is_merged(pair: _Pair, name: str, looked: Mapping[Place, Weights]) -> bool:
    """Tell whether `low_rank` codes some rows of a matrix smaller.

    The factors are found in these rows alone. Of all rows there are that many more numbers.
    """
    places, shape = _rows(pair, name), pair.base.tensors[name].shape
    if not places:
        return False
    columns, dtype = row_length(shape), pair.task.tensors[name].dtype
    rows = pair.base.tensors[name].numel // columns
    each = zip(*(looked[place] for place in places), strict=True)
    theta, below, w0 = (np.concatenate(weights) for weights in each)
    bits, gain = WORTH[pair.options.level]
    if range_finder.may_save(theta, below, dtype, columns) < bits:
        return False
    update, some = range_finder.between(theta, below, dtype, columns), theta.size // columns
    if not update.rank:
        return False
    spec = pair.spec(name, (some, columns), 0)
    usual = pair.coded((theta, below, w0), spec)
    ours = pair.coded((theta, below, w0), replace(spec, codec="low_rank", update=update))
    factors = sum(s.size for s in low_rank.lead(update))
    more = (rows + columns) / (some + columns) * some / rows  # numbers per weight, to here
    ours += int(factors * (more - 1))
    gain = GAIN_OF_CHILD if pair.in_chain else gain
    return usual - ours > max(LEAST, gain * usual)


def _rows(pair: _Pair, name: str) -> list[Place]:
    """Spread some rows over a matrix; none of what cannot be a merged adapter's."""
    shape = pair.base.tensors[name].shape
    columns = row_length(shape)
    rows = pair.base.tensors[name].numel // columns if columns else 0
    if rows < 2 or any(m.tensors[name].shape != shape for m in (pair.task, pair.parent)):
        return []
    some = min(rows, max(ROWS[0], min(ROWS[1], rows // ONE_ROW_IN)))
    at_a_time = min(some, ROWS_AT_A_TIME)
    starts = np.linspace(0, rows - at_a_time, -(-some // at_a_time)).astype(int).tolist()
    return [(start * columns, (start + at_a_time) * columns) for start in sorted({*starts})]


def _shared(pair: _Pair, name: str) -> int:
    """Count the elements that the task, its parent and the base all have."""
    return min(m.tensors[name].numel for m in (pair.task, pair.parent, pair.base))


def _read(pair: _Pair, name: str, start: int, stop: int) -> Weights:
    """Return a run of the task, of what it is coded against, and of the base, cast to its dtype."""
    dtype = pair.task.tensors[name].dtype
    models = (pair.task, pair.base, *([pair.parent] if pair.has_parent else []))
    read = [cpu.cast(m.read(name, start, stop), m.tensors[name].dtype, dtype) for m in models]
    return read[0], read[-1], read[1]


def _runs(n: int, size: int) -> list[Place]:
    """Spread runs over n elements, each once."""
    starts = sorted({int(at) for at in np.linspace(0, max(0, n - size), RUNS)})
    return [(start, min(start + size, n)) for start in starts]
