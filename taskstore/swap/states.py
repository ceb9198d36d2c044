"""What each state of the module consists of: the base (None) and every task that is attached.

A live tensor is one of three things over all states: the same in each (never touched), a selection
by masks between W0 and W1 (swapped by XOR), or something of a task's own, a head, a changed
integer buffer, the new rows of a grown vocabulary (copied from a list of contents).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from taskstore.errors import ModuleMismatch
from taskstore.format.dtypes import ITEMSIZE, numel
from taskstore.format.manifest import Manifest
from taskstore.loader import Rebuilt, label_of, rebuilt_tensors, resolved
from taskstore.swap.binding import Live, ignored

State = str | None


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
class Valued:
    """Bytes from `start` on of a live tensor are each state's own.

    names   state -> name of its tensor
    keys    state -> key of its content; states with one key share the content
    """

    live: Live
    start: int
    names: Mapping[State, str]
    keys: Mapping[State, str]


class States:
    """The models of a store as far as a module can hold them."""

    def __init__(self, manifest: Manifest, lives: Sequence[Live], ignore: Sequence[str]) -> None:
        self._manifest, self._lives, self._ignore = manifest, lives, ignore
        every: tuple[State, ...] = (None, *manifest.tasks)
        self.tensors = {state: rebuilt_tensors(manifest, state) for state in every}

    def misfits(self, state: State) -> list[str]:
        """Why the module cannot hold a state, tensor by tensor; empty where it can."""
        tensors, found = self.tensors[state], []
        for live in self._lives:
            there = [tensors[name] for name in live.names if name in tensors]
            if not there:
                found.append(f"it has no tensor {live.name!r}")
            elif len({t.blake3 for t in there}) > 1:
                tied = " and ".join(repr(t.name) for t in there)
                found.append(f"the module ties {tied}, which differ in it")
            else:
                found += _difference(there[0], live)
        bound = {name for live in self._lives for name in live.names}
        for name in tensors:
            if name not in bound and not ignored(name, self._ignore):
                found.append(f"its tensor {name!r} has no place in the module")
        return found

    def choose(self, tasks: Sequence[str]) -> list[State]:
        """The states to attach: these tasks, and the base where the module can hold it.

        Raises ModuleMismatch for a task that does not fit.
        """
        for task in tasks:
            if problems := self.misfits(task):
                fitting = [name for name in tasks if not self.misfits(name)]
                way = f"; name those that fit: {', '.join(fitting)}" if fitting else ""
                raise ModuleMismatch(label_of(task), problems, way)
        return [*([] if self.misfits(None) else [None]), *tasks]

    def name_in(self, state: State, live: Live) -> str:
        return next(name for name in live.names if name in self.tensors[state])

    def digest(self, state: State, live: Live) -> str:
        return self.tensors[state][self.name_in(state, live)].blake3

    def digests(self, state: State, live: Live) -> set[str]:
        """Checksums that a state has under any name of a live tensor; empty where it has none."""
        tensors = self.tensors[state]
        return {tensors[name].blake3 for name in live.names if name in tensors}

    def plan(self, states: Sequence[State]) -> tuple[list[Masked], list[Valued]]:
        """What a swap between these states touches."""
        masked: list[Masked] = []
        valued: list[Valued] = []
        for live in self._lives:
            if len({self.digest(state, live) for state in states}) == 1:
                continue
            names = {state: self.name_in(state, live) for state in states}
            keys = {state: self.digest(state, live) for state in states}
            sources = {_source(self._manifest, state, name) for state, name in names.items()}
            source = next(iter(sources))
            if len(sources) > 1 or source is None:
                valued.append(Valued(live, 0, names, keys))
                continue
            base = self._manifest.tensors[source]
            n = numel(base.shape)
            tasks = {s for s in names if s and _is_masked(self._manifest, s, names[s])}
            masked.append(Masked(live, source, n, frozenset(tasks)))
            if n < live.tensor.numel():
                valued.append(Valued(live, n * ITEMSIZE[base.dtype], names, keys))
        return masked, valued


def _difference(tensor: Rebuilt, live: Live) -> list[str]:
    shape = tuple(live.tensor.shape)
    if (tensor.dtype, tensor.shape) == (live.dtype, shape):
        return []
    theirs, ours = f"{tensor.dtype} {list(tensor.shape)}", f"{live.dtype} {list(shape)}"
    return [f"its tensor {tensor.name!r} is {theirs}, the module's {ours}"]


def _source(manifest: Manifest, state: State, name: str) -> str | None:
    """The base's tensor that a state selects from; None where no selection makes the content."""
    if state is not None:
        name, entry = resolved(manifest.tasks[state], name)
        if entry.kind in ("private", "exact"):
            return None
        if entry.dtype is not None and entry.dtype != manifest.tensors[name].dtype:
            return None
    return manifest.tensors[name].alias or name


def _is_masked(manifest: Manifest, task: str, name: str) -> bool:
    return resolved(manifest.tasks[task], name)[1].kind == "mask"
