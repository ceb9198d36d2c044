"""Chooses the parents of fine-tunes that join a store: of its tasks, of those that join, or none.

A run or two of weights of every task that may be a parent is read out of the store, where the
fine-tunes moved most, and each is coded given it. The best of each are then measured on more runs,
beside the base and the other fine-tunes. So the cost hardly grows with the tasks that are there.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from functools import lru_cache, partial

import numpy as np

from taskstore.errors import TaskstoreError
from taskstore.executors import Executor
from taskstore.format.dtypes import numel
from taskstore.format.manifest import TIERS, Manifest
from taskstore.format.rules import lineage
from taskstore.kernels import cpu
from taskstore.locations.remote import mirror
from taskstore.models.family import Family
from taskstore.packing import plan as planning
from taskstore.packing.options import PackOptions
from taskstore.packing.parents import distances, tree
from taskstore.packing.parents.choice import GAIN, LEAST
from taskstore.packing.parents.distances import Run, Samples, Weights, cost
from taskstore.store import Store
from taskstore.store.base import BaseSource, Bits
from taskstore.store.rebuild import ModelReader

LONG = 1 << 13  # weights of a run: what lies before it in its chunk is decoded, too
FEW, OF_ALL = 4, 64  # runs of a task that may be a parent, at most; of all of them
BEST = 4  # tasks that are measured on all runs
Node = Mapping[int, Weights]  # by the number of the run


def choose(
    store: Store, gone: Collection[str], family: Family, options: PackOptions, executor: Executor
) -> dict[str, str]:
    """Return fine-tune -> parent; what is not in it is coded against the base.

    `family` has the fine-tunes alone, `gone` tasks of the store that are replaced. What is given in
    `options` stays. Tasks of a store that lies elsewhere are not fetched to be looked at.
    """
    plan = planning.make(family, options)
    kept = planning.keep_adapters(family, plan, options)[1]
    family, plan = planning.without(family, plan, kept)
    names, asked = [task.name for task in family.tasks], options.parents
    asked = {name: parent for name, parent in asked.items() if name in names}
    if options.parent != "auto" or asked.keys() == {*names}:
        return asked
    sizes = max(FEW * LONG, distances.most_of(len(names)))
    samples = distances.sample(family, plan, options, executor, sizes, LONG)
    there = dict[str, Node]()
    if not mirror.address_of(store.where) and not {*asked.values()} & {*names}:
        there = _best(store, _candidates(store.manifest, gone, options), samples, executor)
    nodes = replace(samples, nodes=[*samples.nodes, *there.values()])
    order = [*names, *there]
    number = {name: t for t, name in enumerate(order, 1)}
    fixed = {number[name]: number.get(parent, 0) for name, parent in asked.items()}
    fixed |= {number[name]: 0 for name in there}
    depths = [lineage.depth(store.manifest.tasks, name) for name in there]
    depth = options.depth + 1 - max(depths, default=1)
    found = tree.grow(_costs(nodes, len(names), executor), depth, fixed).tolist()
    return {n: order[found[number[n]] - 1] for n in names if found[number[n]]} | asked


def _costs(samples: Samples, new: int, executor: Executor) -> distances.F64:
    """Return what the first `new` tasks take given each node; the others' is not known."""
    count = len(samples.nodes)
    pairs = [(given, of) for of in range(1, new + 1) for given in range(count) if given != of]
    cost_TT = np.zeros((count, count))
    for (given, of), found in zip(pairs, executor.map(cost, samples, pairs), strict=True):
        cost_TT[given, of] = found * samples.one_in
    cost_TT[0] = np.maximum(0, cost_TT[0] * (1 - GAIN) - LEAST)
    return cost_TT


def _candidates(manifest: Manifest, gone: Collection[str], options: PackOptions) -> list[str]:
    """List the tasks that may be a parent: of these tiers, not too deep, not below what goes."""
    tasks = manifest.tasks
    chains = {name: {name, *lineage.parents(tasks, name)} for name in tasks}
    return [
        name
        for name, task in tasks.items()
        if task.all_tiers == options.tier_names
        and task.adapter is None
        and len(chains[name]) < options.depth
        and not chains[name] & {*gone}
    ]


def _best(
    store: Store, candidates: list[str], samples: Samples, executor: Executor
) -> dict[str, Node]:
    """Return the tasks of a store to which some fine-tune is nearest, nearer than to the base."""
    count = max(1, min(FEW, OF_ALL // max(1, len(candidates))))
    few = samples.only(_telling(samples, count, store.manifest.chunk))
    new = range(1, len(samples.nodes))
    takes: dict[int, dict[str, int]] = {t: {} for t in new}
    for name, node in _read(store, candidates, few, executor):
        with_it = replace(few, nodes=[*few.nodes, node])
        for t in new:
            takes[t][name] = cost(with_it, (len(few.nodes), t))
    found = set[str]()
    for t in new:
        given_base = cost(few, (0, t))
        nearer = {name: taken for name, taken in takes[t].items() if taken < given_base}
        found |= {*sorted(nearer, key=nearer.__getitem__)[: max(1, BEST // len(new))]}
    return dict(_read(store, sorted(found), samples, executor))


def _telling(samples: Samples, count: int, chunk: int) -> set[int]:
    """Choose some runs: of those in which fine-tunes moved most, those that are decoded soonest."""
    base, *new = samples.nodes
    moved = {
        i: sum(np.mean(cpu.cast(*base[i], node[i][1]) != node[i][0]) for node in new if i in node)
        for i in base
    }
    most = [i for i in moved if 2 * moved[i] >= max(moved.values())]
    return {*sorted(most, key=lambda i: samples.runs[i].stop % chunk)[:count]}


def _read(
    store: Store, names: list[str], samples: Samples, executor: Executor
) -> Iterator[tuple[str, Node]]:
    """Yield tasks and their weights in the runs that are looked at; what is damaged is left out."""
    if not names:
        return
    with store.open_base(executor) as base:
        runs, kept = {i: samples.runs[i] for i in samples.nodes[0]}, _Kept(base)
        found = executor.map(_weights, (store, kept, runs), names)
        yield from ((name, node) for name, node in zip(names, found, strict=True) if node)


class _Kept:
    """A base of which a few chunks are kept: every candidate is read at the same places."""

    def __init__(self, base: BaseSource) -> None:
        self.place, self.assets, self.beside, self.close = (
            base.place, base.assets, base.beside, base.close,
        )  # fmt: skip
        self._chunk = lru_cache(FEW)(lambda name, k: base.chunks(name)(k))

    def chunks(self, name: str) -> Callable[[int], Bits]:
        return partial(self._chunk, name)


def _weights(shared: tuple[Store, BaseSource, Mapping[int, Run]], name: str) -> Node:
    (store, base, runs), node = shared, dict[int, Weights]()
    manifest, task = store.manifest, store.manifest.tasks[name]
    try:
        with store.reader(name, base) as reader:
            for i, run in runs.items():
                entry = task.tensors.get(run.name)
                if entry is None or entry.kind not in TIERS:
                    continue  # it is coded against the base
                tensor = manifest.tensors[run.name]
                if numel(entry.shape or tensor.shape) >= run.stop:
                    weights = _run(reader, run, manifest.chunk)
                    node[i] = weights, entry.dtype or tensor.dtype
    except (TaskstoreError, OSError):
        return {}
    return node


def _run(reader: ModelReader, run: Run, chunk: int) -> Bits:
    """Decode a run, and of its chunk what lies before it; the rest where it ends in another one."""
    k, start = divmod(run.start, chunk)
    stop = start + run.stop - run.start
    if stop <= chunk:
        return reader.head(run.name, k, stop)[start:]
    return np.concatenate(list(reader.elements(run.name, run.start, run.stop)))
