"""The box in which continuous values of a merge are searched: alpha, options, weights per task.

A number that the user gave is fixed. A grid that the user gave says the ends, and so does `RANGES`
for the options that are worth searching; others keep their usual value. Alpha goes from 0 to half
again as much as the largest value of the method's grid, a weight from 0 to 2.

Legend: D = axes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from taskstore.errors import OptionError
from taskstore.merging.methods import registry
from taskstore.merging.options import MergeOptions
from taskstore.merging.search.grids import Grids, Values

RANGES: Mapping[str, tuple[float, float]] = {  # over four octaves and more: in the logarithm
    "a": (0.5, 1),
    "beta": (0, 4),
    "common": (0.2, 1),
    "density": (0.01, 1),
    "floor": (0.01, 1),
    "lam": (0.1, 1),
    "p": (0, 0.95),
    "quantile": (0.8, 1),
    "rank": (0.1, 1),
    "ridge": (0.01, 10),
    "shallow": (0.1, 2),
}
LOGARITHMIC = frozenset(("density", "floor", "ridge"))
WEIGHT = (0.0, 2.0)
PLACES = 4  # digits of a value, so that a journal knows it again


class Axis(NamedTuple):
    """One value: its ends, where the search starts, and whether steps are factors.

    kind    "alpha", "option" or "weight"
    key     the option's name, or the task's
    group   number of the group of layers that a weight is for; None: tensors of no group
    """

    name: str
    kind: str
    key: str
    low: float
    high: float
    start: float
    group: int | None = None

    def at(self, position: float) -> float:
        """The value at a position from 0 to 1."""
        low, high = self._ends
        value = low + min(max(position, 0.0), 1.0) * (high - low)
        rounded = float(f"{math.exp(value) if self._log else value:.{PLACES}g}")
        return min(max(rounded, self.low), self.high)

    @property
    def middle(self) -> float:
        """The position of the start."""
        low, high = self._ends
        start = math.log(self.start) if self._log else self.start
        return min(max((start - low) / (high - low), 0.0), 1.0)

    @property
    def _log(self) -> bool:
        return self.kind == "option" and self.key in LOGARITHMIC and self.low > 0

    @property
    def _ends(self) -> tuple[float, float]:
        return (math.log(self.low), math.log(self.high)) if self._log else (self.low, self.high)


@dataclass(frozen=True)
class Space:
    """The D axes over the options that stay as they are."""

    axes: Sequence[Axis]
    options: MergeOptions
    layers: int = 0

    @property
    def names(self) -> dict[str, Values]:
        """The axes by name, each with its ends."""
        return {axis.name: (axis.low, axis.high) for axis in self.axes}

    @property
    def start(self) -> list[float]:
        """The positions, (D,), of the method as it usually is."""
        return [axis.middle for axis in self.axes]

    def values(self, positions: Sequence[float]) -> Values:
        """The values at D positions from 0 to 1."""
        return tuple(axis.at(x) for axis, x in zip(self.axes, positions, strict=True))

    def at(self, values: Values) -> MergeOptions:
        """The options with these D values."""
        fixed, own = self.options, dict(zip(self.axes, values, strict=True))
        alpha = next((v for axis, v in own.items() if axis.kind == "alpha"), fixed.alpha)
        given = {axis.key: v for axis, v in own.items() if axis.kind == "option"}
        weights = [
            {**fixed.weights, **{a.key: v for a, v in own.items() if (a.kind, a.group) == of}}
            for of in (("weight", group) for group in (None, *range(self.layers)))
        ]
        return replace(
            fixed,
            alpha=alpha,
            method_options={**fixed.method_options, **given},
            weights=weights[0],
            layer_weights=tuple(weights[1:]),
        )


def space(options: MergeOptions, grids: Grids, names: Sequence[str], layers: int = 0) -> Space:
    """Return what is searched for these tasks; with `layers` groups of layers, weights for each.

    Raises OptionError where nothing is left to search, or what is asked for cannot be.
    """
    if layers and not options.info.weights:
        raise OptionError(
            f"method {options.method!r} takes no weights, so groups of layers have none; leave "
            "the groups out, or take another method"
        )
    axes = [*_alpha(options, grids), *_options(options, grids)]
    if options.info.weights and (len(names) > 1 or layers):
        axes += _weights(options, names, layers)
    if not axes:
        raise OptionError(
            f"nothing of {options.method!r} is left to search: every number is given; leave some "
            "out, or give a range, as 0:1:0.1 for alpha"
        )
    return Space(axes, options, layers)


def weighted(options: MergeOptions, names: Sequence[str]) -> Space:
    """Return a weight per task vector alone, for those that have none; each axis says no ends."""
    return Space(_weights(options, names, 0), options)


def _alpha(options: MergeOptions, grids: Grids) -> list[Axis]:
    grid = options.info.grid
    if options.alpha is not None or not (grids.alpha or grid):
        return []
    low, high = _ends(grids.alpha) if grids.alpha else (0.0, 1.5 * max(grid))
    return [Axis("alpha", "alpha", "", low, high, (low + high) / 2)]


def _options(options: MergeOptions, grids: Grids) -> list[Axis]:
    method = options.made()
    found = []
    for name, option in registry.options_of(options.method).items():
        if name in options.method_options or (name not in grids.options and name not in RANGES):
            continue
        if option.whole:
            if name in grids.options:
                raise OptionError(
                    f"option {name} is a whole number, and CMA-ES searches continuous values; give "
                    "one value, or search a grid"
                )
            continue
        low, high = _ends(grids.options[name]) if name in grids.options else RANGES[name]
        low, high = max(low, option.low), min(high, option.high)
        start = min(max(method.options[name], low), high)
        title = "option alpha" if name == "alpha" else name
        found.append(Axis(title, "option", name, low, high, start))
    return found


def _ends(values: Values) -> tuple[float, float]:
    return values[0], values[-1]


def _weights(options: MergeOptions, names: Sequence[str], layers: int) -> list[Axis]:
    free = [name for name in names if name not in options.weights]
    titles: dict[int | None, str] = {None: "elsewhere" if layers else ""}
    titles |= {group: f"layers {group + 1}/{layers}" for group in range(layers)}
    return [
        Axis(f"weight {name} {title}".strip(), "weight", name, *WEIGHT, 1.0, group)
        for group, title in titles.items()
        for name in free
    ]
