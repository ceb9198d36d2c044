"""The parameters of a recipe, as its merge methods ask for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from taskstore.merging.mergekit.fields import Node


@dataclass(frozen=True)
class RecipeModel:
    """One of a recipe's `models`; the base, if it is listed, is no fine-tune of itself."""

    node: Node
    parameters: Mapping[str, Node]
    is_base: bool


@dataclass(frozen=True)
class Settings:
    """The parameters of a recipe, or of one slice of its layers.

    shared     those of models that give none of their own, `slice` those of the slice before them
    has_base   whether the base was named; if not, it is the first model, and one of them
    """

    method: Node
    shared: Mapping[str, Node]
    models: Sequence[RecipeModel]
    slice: Mapping[str, Node] = field(default_factory=dict)
    has_base: bool = True

    @property
    def tasks(self) -> list[RecipeModel]:
        return [entry for entry in self.models if not entry.is_base]

    def node(self, name: str, entry: RecipeModel) -> Node | None:
        return entry.parameters.get(name, self.shared.get(name))

    @property
    def points(self) -> list[RecipeModel]:
        """The models that are merged: the base, too, where none was named."""
        return self.tasks if self.has_base else list(self.models)

    def weights(self) -> list[float]:
        return [self.weight(entry) for entry in self.tasks]

    def weight(self, entry: RecipeModel) -> float:
        node = self.node("weight", entry)
        if node is None:
            entry.node.fail(f"has no parameters.weight, and {self.method.value} needs it")
        return node.number()

    def values(self, name: str, usual: float) -> list[float]:
        """A parameter of each model."""
        found = []
        for entry in self.tasks:
            node = self.node(name, entry)
            found.append(node.number() if node else usual)
            if (node and not 0 <= found[-1] <= 1) or (name == "density" and not found[-1]):
                (node or entry.node).fail(f"is {found[-1]:g}; a {name} is above 0 and at most 1")
        return found

    def number(self, name: str, usual: float | None = None) -> float:
        if name in self.shared:
            return self.shared[name].number()
        if usual is None:
            self.method.fail(f"{self.method.value} needs parameters.{name}")
        return usual

    def one(self) -> None:
        """Raise InputError unless one model stands beside the base."""
        if len(self.tasks) != 1:
            self.method.fail(
                f"{self.method.value} takes one model beside the base, and {len(self.tasks)} are "
                "listed"
            )

    @property
    def single(self) -> bool:
        """Whether every parameter is one value for all tensors."""
        levels = [self.shared, self.slice, *(entry.parameters for entry in self.models)]
        return all(node.single for level in levels for node in level.values())

    def at(self, tensor: str, depth: float) -> Settings:
        """The values for one tensor; see `Node.at`."""
        models = [
            replace(entry, parameters=_resolved([entry.parameters], tensor, depth))
            for entry in self.models
        ]
        shared = _resolved([self.slice, self.shared], tensor, depth)
        return replace(self, models=models, shared=shared, slice={})

    def flag(self, name: str, default: bool = False) -> bool:
        return self.shared[name].flag() if name in self.shared else default

    def scale(self) -> float:
        return self.shared["lambda"].number() if "lambda" in self.shared else 1.0


@dataclass(frozen=True)
class Call:
    """What a recipe asks for. `weights` are of `Settings.tasks`; `notes` name places in it."""

    method: str
    weights: Sequence[float] | None = None
    options: Mapping[str, float] = field(default_factory=dict)
    alpha: float = 1.0
    notes: Mapping[str, str] = field(default_factory=dict)
    varied: Mapping[str, Sequence[float]] = field(default_factory=dict)  # one value per task


def _resolved(levels: Sequence[Mapping[str, Node]], tensor: str, depth: float) -> dict[str, Node]:
    """The values for one tensor, of the first level that has one."""
    found: dict[str, Node] = {}
    for level in levels:
        for name, node in level.items():
            if name not in found and (value := node.at(tensor, depth)) is not None:
                found[name] = value
    return found
