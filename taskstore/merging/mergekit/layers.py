"""Models whose layers are put together from others: where each tensor of the result is from.

A tensor's layer is the first number in its name. Of tensors outside the layers, embeddings are the
first slice's and all others (norms, heads) the last one's.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from taskstore.merging.mergekit.fields import Node
from taskstore.merging.mergekit.settings import Settings
from taskstore.merging.methods.lines import NUMBER, depths
from taskstore.models.checkpoint import Checkpoint, TensorInfo

_FIRST = re.compile(r"embed|wte|wpe")


@dataclass(frozen=True)
class Source:
    """Layers [start, stop) of a model."""

    node: Node
    path: str
    parameters: Mapping[str, Node]
    start: int = 0
    stop: int = 0


@dataclass(frozen=True)
class Slice:
    """Some layers of the result; `cut`: the sources' ranges count, not all layers.

    `base` is the model whose tensors the others' vectors are added to.
    """

    settings: Settings
    base: Source
    tasks: Sequence[Source]
    cut: bool

    @property
    def length(self) -> int:
        return self.base.stop - self.base.start


@dataclass(frozen=True)
class Place:
    """Where a tensor of the result is from.

    depth   0 in the first layer of its slice, 1 in the last one; 0 outside the layers
    names   a source -> its tensor
    """

    part: Slice
    depth: float
    names: Mapping[str, str] = field(default_factory=dict)


def places(base: Checkpoint, slices: Sequence[Slice]) -> dict[str, Place]:
    """Every tensor of the result; raises InputError for layers that the base has not."""
    if not slices[0].cut:
        depth = depths(base.tensors)
        paths = [slices[0].base.path, *(task.path for task in slices[0].tasks)]
        return {
            name: Place(slices[0], depth.get(name, 0.0), dict.fromkeys(paths, name))
            for name in base.tensors
        }
    return dict(_cut(base, slices))


def _cut(base: Checkpoint, slices: Sequence[Slice]) -> Iterator[tuple[str, Place]]:
    layered = {name: found for name in base.tensors if (found := NUMBER.match(name))}
    stacks = {found[1] for found in layered.values()}
    if len(stacks) != 1:
        slices[0].base.node.fail(f"has {len(stacks)} stacks of layers, and slices are of one")
    for name in base.tensors.keys() - layered.keys():
        part = slices[0 if _FIRST.search(name) else -1]
        every = [part.base, *part.tasks]
        yield name, Place(part, 0.0, {source.path: name for source in every})
    forms = {(found[1], name[found.end() :]) for name, found in layered.items()}
    at = 0
    for part in slices:
        for i in range(part.length):
            depth = i / (part.length - 1) if part.length > 1 else 1.0
            for stack, rest in forms:
                made = _name(stack, at, rest)
                every = [part.base, *part.tasks]
                yield (
                    made,
                    Place(part, depth, {s.path: _name(stack, s.start + i, rest) for s in every}),
                )
            at += 1


def _name(stack: str | None, layer: int, rest: str) -> str:
    return f"{stack}.{layer}.{rest}" if stack else f"{layer}.{rest}"


class PartsReader:
    """A reader whose tensors are those of several models, under other names."""

    def __init__(self, parts: Mapping[str, tuple[Checkpoint, str]]) -> None:
        self.parts = parts
        self.tensors: dict[str, TensorInfo] = {
            name: model.tensors[own] for name, (model, own) in parts.items()
        }

    def read(self, name: str, start: int, stop: int) -> NDArray[Any]:
        model, own = self.parts[name]
        return model.read(own, start, stop)

    def read_into(self, name: str, start: int, out: NDArray[Any]) -> None:
        model, own = self.parts[name]
        model.read_into(own, start, out)

    def close(self) -> None:
        """The models are closed by who opened them."""
