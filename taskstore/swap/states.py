"""Plans what a swap changes between the states of a module: the base (None) and attached tasks.

A live tensor is one of four things over all states:

    the same in each                            never touched
    a selection by masks between W0 and W1      swapped by XOR
    the base's or a selection, plus a vector    rebuilt from the base's weights
    each state's own                            copied: a head, a changed integer buffer, the new
                                                rows of a grown vocabulary; what the module holds in
                                                another float dtype, as transformers does some
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from taskstore.errors import ModuleMismatch
from taskstore.format.dtypes import ITEMSIZE, numel, vector_bytes
from taskstore.format.manifest import TIERS, Manifest
from taskstore.store.catalog import Rebuilt, label_of, rebuilt_tensors, resolved, tiers_up_to
from taskstore.swap.binding import Live, ignored, left_alone, prefix_hint

State = str | None
FLOATS = frozenset({"F64", "F32", "F16", "BF16"})


@dataclass(frozen=True)
class Masked:
    """Elements [0, n) of a live tensor: W0 ^ (D & mask), D and masks those of `source`.

    tasks   attached tasks that have a mask for it; for the others it is all zero
    """

    live: Live
    source: str
    n: int
    tasks: frozenset[str]


@dataclass(frozen=True)
class Added:
    """Elements [0, n) of a live tensor, rebuilt from the base's weights at each swap.

    vectors  task that adds a vector, in chunks of `chunk` elements -> bytes that it takes, about
    masked   tasks that select by a mask first; both change where tasks come and go
    merged   whether W1 differs from W0 here, so that D is needed
    """

    live: Live
    source: str
    n: int
    chunk: int
    vectors: dict[str, int]
    masked: set[str]
    merged: bool


@dataclass(frozen=True)
class Valued:
    """Bytes from `start` on of a live tensor are each state's own.

    names   state -> name of its tensor
    keys    state -> key of its content; states with one key share the content
    """

    live: Live
    start: int
    names: Mapping[State, str]
    keys: Mapping[State, str]


def weight_bytes(part: Masked | Added) -> int:
    """Bytes of the weights that a swap changes; D and the base's weights take as many."""
    return part.n * ITEMSIZE[part.live.dtype]


class States:
    """The models of a store, compared with what a module can hold."""

    def __init__(
        self,
        manifest: Manifest,
        lives: Sequence[Live],
        ignore: Sequence[str],
        tier: str | None = None,
        wanted: Collection[str] = (),
    ) -> None:
        """`tier` None: the best that each task has. `wanted`: names that need a place."""
        self._wanted = wanted
        self._manifest, self._lives, self._ignore, self.tier = manifest, lives, ignore, tier
        every: tuple[State, ...] = (None, *manifest.tasks)
        self.tensors = {state: rebuilt_tensors(manifest, state, tier) for state in every}
        known = {name for tensors in self.tensors.values() for name in tensors}
        self._extra = [live for live in lives if not known & set(live.names)]

    def bound(self) -> list[Live]:
        """The module's tensors without those that no model of the store has.

        Raises SwapError where one of those is a copy of one of these.
        """
        extra = {live.name for live in self._extra}
        found = [live for live in self._lives if live.name not in extra]
        left_alone(self._extra, found)
        return found

    def misfits(self, state: State) -> list[str]:
        """Why the module cannot hold a state, tensor by tensor; empty where it can."""
        tensors, found, casts = self.tensors[state], [], self.casts(state)
        bound = {name for live in self._lives for name in live.names}
        lacking = [name for name in tensors if name in self._wanted and name not in bound]
        for live in self._lives:
            if live in self._extra and not lacking:
                continue
            there = [tensors[name] for name in live.names if name in tensors]
            if not there:
                found.append(f"it has no tensor {live.name!r}")
            elif len({t.blake3 for t in there}) > 1:
                tied = " and ".join(repr(t.name) for t in there)
                found.append(f"the module ties {tied}, which differ in it")
            elif there[0].name not in casts:
                found += _difference(there[0], live)
        own = self._manifest.tasks[state].tensors if state is not None else {}
        for name, entry in own.items():
            if (
                entry.kind in TIERS
                and entry.shape
                and entry.shape < self._manifest.tensors[name].shape
            ):
                found.append(f"its vocabulary {name!r} was cut; load it alone")
        found += [f"its tensor {name!r} has no place in the module" for name in lacking]
        return found

    def choose(self, tasks: Sequence[str]) -> list[State]:
        """The states to attach: these tasks, and the base where the module can hold it.

        Raises ModuleMismatch for a task that does not fit.
        """
        for task in tasks:
            if problems := self.misfits(task):
                fitting = [name for name in tasks if not self.misfits(name)]
                way = f"; name those that fit: {', '.join(fitting)}" if fitting else ""
                bound = [name for live in self._lives for name in live.names]
                way = way or prefix_hint(bound, self.tensors[task])
                raise ModuleMismatch(label_of(task), problems, way)
        return [*([] if self.misfits(None) else [None]), *tasks]

    def casts(self, state: State) -> dict[str, Live]:
        """Name of a state's tensor -> the live one that holds it cast; none where most would be."""
        every, found = self.tensors[state], {}
        for live in self._lives:
            for tensor in (every[name] for name in live.names if name in every):
                one, two = (tensor.dtype, tensor.shape), (live.dtype, tuple(live.tensor.shape))
                if one != two and one[1] == two[1] and {one[0], two[0]} <= FLOATS:
                    found[tensor.name] = live
        size = sum(live.tensor.numel() for live in self._lives)
        mine = sum(live.tensor.numel() for live in found.values())
        return found if 2 * mine < size else {}

    def settle(self, state: State, name: str, dtype: str, digest: str) -> None:
        """Take the cast tensor for the state's own from now on."""
        self.tensors[state][name] = replace(self.tensors[state][name], dtype=dtype, blake3=digest)

    def name_in(self, state: State, live: Live) -> str:
        return next(name for name in live.names if name in self.tensors[state])

    def digest(self, state: State, live: Live) -> str:
        return self.tensors[state][self.name_in(state, live)].blake3

    def digests(self, state: State, live: Live) -> set[str]:
        """Checksums that a state has under any name of a live tensor; empty where it has none."""
        tensors = self.tensors[state]
        return {tensors[name].blake3 for name in live.names if name in tensors}

    def plan(self, states: Sequence[State]) -> tuple[list[Masked], list[Added], list[Valued]]:
        """What a swap between these states touches."""
        masked: list[Masked] = []
        added: list[Added] = []
        valued: list[Valued] = []
        for live in self._lives:
            if live in self._extra:
                continue
            if len({self.digest(state, live) for state in states}) == 1:
                continue
            names = {state: self.name_in(state, live) for state in states}
            keys = {state: self.digest(state, live) for state in states}
            sources = {self._source(state, name, live) for state, name in names.items()}
            source = next(iter(sources))
            if len(sources) > 1 or source is None:
                valued.append(Valued(live, 0, names, keys))
                continue
            base = self._manifest.tensors[source]
            n = numel(base.shape)
            tasks, vectors = (
                frozenset(s for s in names if s and tier in self._tiers_of(s, names[s]))
                for tier in ("mask", "rest")
            )
            if vectors:
                chunk, every = self._manifest.chunk, self._manifest.tasks
                sizes = {t: vector_bytes(every[t].bits or 0, base.shape) for t in vectors}
                added.append(Added(live, source, n, chunk, sizes, set(tasks), bool(tasks)))
            else:
                masked.append(Masked(live, source, n, tasks))
            if n < live.tensor.numel():
                valued.append(Valued(live, n * ITEMSIZE[base.dtype], names, keys))
        return masked, added, valued

    def _source(self, state: State, name: str, live: Live) -> str | None:
        """The base's tensor that a state is rebuilt from; None where it has to be kept whole."""
        if state is not None:
            task = self._manifest.tasks[state]
            name, entry = resolved(task, name)
            if entry.kind in ("private", "adapted") or "exact" in self._tiers_of(state, name):
                return None
            if entry.dtype is not None and entry.dtype != self._manifest.tensors[name].dtype:
                return None
        source = self._manifest.tensors[name].alias or name
        return source if self._manifest.tensors[source].dtype == live.dtype else None

    def _tiers_of(self, task: str, name: str) -> tuple[str, ...]:
        """Tiers that rebuild a task's tensor here."""
        model = self._manifest.tasks[task]
        return tiers_up_to(model, resolved(model, name)[0], self.tier)


def differing(
    manifest: Manifest, tasks: Sequence[str], tier: str | None, ignore: Sequence[str]
) -> dict[str, set[tuple[int, ...]]]:
    """Names of tensors that base and tasks do not share, and their shapes.

    What all of them have alike need not be in a module: buffers of old checkpoints, which modules
    of today compute.
    """
    found: dict[str, set[Rebuilt]] = {}
    for state in (None, *tasks):
        for name, tensor in rebuilt_tensors(manifest, state, tier).items():
            if not ignored(name, ignore):
                found.setdefault(name, set()).add(tensor)
    return {name: {t.shape for t in each} for name, each in found.items() if len(each) > 1}


def _difference(tensor: Rebuilt, live: Live) -> list[str]:
    shape = tuple(live.tensor.shape)
    if (tensor.dtype, tensor.shape) == (live.dtype, shape):
        return []
    theirs, ours = f"{tensor.dtype} {list(tensor.shape)}", f"{live.dtype} {list(shape)}"
    return [f"its tensor {tensor.name!r} is {theirs}, the module's {ours}"]
