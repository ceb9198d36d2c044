"""Groups tensors of the store that fill the same parameters of an engine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor, nn

from taskstore.errors import SwapError
from taskstore.swap.binding import Live
from taskstore_serving.weights import parameters
from taskstore_serving.weights.streams import Streams, layers, numbered


@dataclass(frozen=True)
class LoadGroup:
    """Tensors of the store, and the memory that only they fill.

    written   what the loader says that it wrote
    """

    names: tuple[str, ...]
    written: frozenset[str]
    lives: tuple[Live, ...]


def fill(model: nn.Module, streams: Streams) -> list[LoadGroup]:
    """Load the base; tensors that fill the same memory, tied or fused, become one group."""
    every = layers(streams.names)
    try:
        return _fill(model, streams, every)
    except ValueError:  # a loader that will not have a tied head without its embedding
        alone = [name for layer in every if not numbered(layer[0]) for name in layer]
        return _fill(model, streams, [alone, *(la for la in every if numbered(la[0]))])


def _fill(model: nn.Module, streams: Streams, every: list[list[str]]) -> list[LoadGroup]:
    found: list[tuple[list[str], set[str], set[int]]] = []
    for layer in every:
        names, written = list(layer), parameters.load(model, streams.base(layer))
        places = {live.tensor.data_ptr() for live in parameters.lives(model, written)}
        for other in [one for one in found if one[2] & places]:
            found.remove(other)
            names, written, places = other[0] + names, other[1] | written, other[2] | places
        found.append((names, written, places))
    return [
        LoadGroup(tuple(names), frozenset(written), tuple(parameters.lives(model, written)))
        for names, written, _ in found
    ]


def refill(model: nn.Module, groups: list[LoadGroup], streams: Streams) -> None:
    """Load the base once more, into the same memory."""
    for group in groups:
        write(model, group, streams.base(group.names), "the base")


@contextmanager
def kept(group: LoadGroup) -> Iterator[dict[str, Tensor]]:
    """Copy a group's weights by name, and write them back when the block ends."""
    before = {live.name: parameters.integers(live.tensor).clone() for live in group.lives}
    try:
        yield before
    finally:
        for live in group.lives:
            parameters.integers(live.tensor).copy_(before[live.name])


def write(
    model: nn.Module, group: LoadGroup, tensors: Iterator[tuple[str, Tensor]], whose: str
) -> None:
    """Load some tensors of a group. Raises SwapError where others are written."""
    if stray := parameters.load(model, tensors) - group.written:
        raise SwapError(f"the engine's loader wrote {min(stray)!r} for {whose} only")
