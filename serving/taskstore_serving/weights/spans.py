"""Finds where a checkpoint tensor lands in an engine's memory, and whether whole and in order.

A rest is coded by the rows of its checkpoint tensor, so a swap can add it only where all of that
tensor is one piece of the engine's memory. To find the place, the engine's own loader is given
tensors that hold one small number each, then tensors whose numbers count up.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor, nn

from taskstore.errors import SwapError
from taskstore.format.dtypes import numel
from taskstore.kernels.torch_dtypes import TORCH
from taskstore.store.catalog import Rebuilt
from taskstore.swap.binding import Live
from taskstore_serving.weights.groups import LoadGroup, kept, write
from taskstore_serving.weights.streams import Streams

LARGEST = 255  # numbers up to here are exact in every float dtype
PERIOD = 251  # a prime, so that rows do not repeat each other


@dataclass(frozen=True)
class TensorSpan:
    """Where all of a tensor lies: elements [start, start + n) of a live one.

    source   the tensor itself, or the one of which it is an alias
    """

    source: str
    live: Live
    start: int
    n: int

    @property
    def piece(self) -> Live:
        """The memory of the tensor alone."""
        flat = self.live.tensor.view(-1)[self.start : self.start + self.n]
        return Live((self.source,), flat)


class Places:
    """Where those tensors land that some task adds a rest to."""

    def __init__(self, model: nn.Module, groups: Iterable[LoadGroup], streams: Streams) -> None:
        wanted = streams.rests()
        sources = {name: streams.source(name) for name in wanted}
        self._wanted, self._astray = set(sources.values()), dict[str, str]()
        spans: list[TensorSpan] = []
        for group in groups:
            if any(name in wanted for name in group.names):
                found, problems = find(model, group, wanted, sources)
                spans += found
                self._astray |= problems
        self.spans = [span for span in spans if span.source not in self._astray]

    def check(self, streams: Streams, task: str) -> None:
        """Raise SwapError where a rest has no place in the engine's memory."""
        for source in sorted(streams.tier(task, "rest")):
            problem = self._astray.get(source)
            if source not in self._wanted:
                problem = "had a rest in no task when the engine started; start it again"
            elif problem:
                problem += "; serve masks alone (--tier mask, of a store that has them)"
            if problem:
                raise SwapError(f"tensor {source!r} of task {task!r} {problem}")


def find(
    model: nn.Module, group: LoadGroup, wanted: Mapping[str, Rebuilt], sources: Mapping[str, str]
) -> tuple[list[TensorSpan], dict[str, str]]:
    """Find spans of the wanted tensors of a group, and what is wrong with others, by source.

    A tensor that the engine does not load has neither.
    """
    spans: list[TensorSpan] = []
    problems: dict[str, str] = {}
    names = iter(name for name in group.names if name in wanted)
    with kept(group):
        while some := list(islice(names, LARGEST)):
            for live in group.lives:
                live.tensor.zero_()
            numbers = {name: k for k, name in enumerate(some, 1)}
            write(model, group, ((n, _constant(wanted[n], k)) for n, k in numbers.items()), "some")
            for name, k in numbers.items():
                for live in group.lives:
                    start, count = _landed(live.tensor.view(-1), k)
                    problem = _problem(wanted[name], live, start, count)
                    if count and problem:
                        problems[sources[name]] = problem
                    elif count:
                        spans.append(TensorSpan(sources[name], live, start, count))
            write(model, group, ((name, _counting(wanted[name])) for name in some), "some")
            for span in [s for s in spans if not _in_order(s)]:
                problems[span.source] = "is turned or reordered by the engine's loader"
    return [span for span in spans if span.source not in problems], problems


def _constant(tensor: Rebuilt, value: int) -> Tensor:
    return torch.full(tensor.shape, value, dtype=TORCH[tensor.dtype])


def _counting(tensor: Rebuilt) -> Tensor:
    return _count(numel(tensor.shape)).to(TORCH[tensor.dtype]).view(tensor.shape)


def _count(n: int) -> Tensor:
    return torch.arange(n, dtype=torch.int32) % PERIOD + 1


def _landed(flat: Tensor, value: int) -> tuple[int, int]:
    """First element of this value, and how many have it; -1 where they are not in a row."""
    there = flat == value
    count = int(there.sum())
    start = int(there.to(torch.uint8).argmax()) if count else 0
    return start, count if bool(there[start : start + count].all()) else -1


def _problem(tensor: Rebuilt, live: Live, start: int, count: int) -> str:
    if count != numel(tensor.shape):
        return "is cut or scattered when the engine loads it; try without tensor parallel"
    if tensor.dtype != live.dtype:
        return f"is {tensor.dtype} and becomes {live.dtype} in the engine; start it in that dtype"
    return ""


def _in_order(span: TensorSpan) -> bool:
    """Whether the numbers that count up, which are live, arrived in order."""
    piece = span.piece.tensor
    return torch.equal(piece, _count(span.n).to(piece.dtype).to(piece.device))
