"""The values that a search tries, of alpha and of a method's options.

    0.1,0.3,0.5    these values
    0:1:0.1        from 0 to 1, both included, in steps of 0.1; computed in decimal
    auto           the published ones, if there are any

Published are: alpha as the method says (`Info.grid`); `k` of consensus merging from 1 to the number
of tasks and `lam` from 0.2 to 0.6 (arXiv 2405.07813); `density` of TIES 10, 20 and 30 % (arXiv
2306.01708); `p` of DARE from 0.1 to 0.9 (arXiv 2311.03099).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal, InvalidOperation
from itertools import product
from math import prod

from taskstore.errors import OptionError
from taskstore.merging.options import MergeOptions

Values = tuple[float, ...]
MOST = 10_000  # models that one search may try
PUBLISHED: Mapping[str, Values] = {
    "density": (0.1, 0.2, 0.3),
    "lam": (0.2, 0.3, 0.4, 0.5, 0.6),
    "p": (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9),
}


@dataclass(frozen=True)
class Grids:
    """Values of alpha (none: it is not searched) and of options by name, in ascending order."""

    alpha: Values = ()
    options: Mapping[str, Values] = field(default_factory=dict)

    @property
    def axes(self) -> dict[str, Values]:
        """The name of each thing that is searched -> its values; alpha comes first."""
        own = {f"option {k}" if k == "alpha" else k: v for k, v in self.options.items()}
        return {**({"alpha": self.alpha} if self.alpha else {}), **own}

    def trials(self, options: MergeOptions) -> list[tuple[Values, MergeOptions]]:
        """Each point of the product with its options; alpha changes last.

        Raises OptionError for a value that makes no sense, or for too many points.
        """
        axes = self.axes
        if prod(map(len, axes.values())) > MOST:
            raise OptionError(f"the grids have more than {MOST:,} points; search fewer values")
        return [(point, self._at(options, point)) for point in product(*axes.values())]

    def _at(self, options: MergeOptions, point: Values) -> MergeOptions:
        alpha = point[0] if self.alpha else options.alpha
        own = dict(zip(self.options, point[bool(self.alpha) :], strict=True))
        return replace(options, alpha=alpha, method_options={**options.method_options, **own})


def parse(text: str, what: str, auto: Values = ()) -> Values:
    """The values of a text, ascending, each once: "0:1:0.5" -> (0, 0.5, 1); raises OptionError."""
    if text.strip() == "auto":
        if not auto:
            raise OptionError(f"{what} has no published grid; write the values: 0.1,0.3 or 0:1:0.1")
        return auto
    try:
        values = {value for part in text.split(",") for value in _part(part)}
    except (InvalidOperation, ValueError):
        raise OptionError(
            f"{what} {text!r} is not a number, a list (0.1,0.3), a range (0:1:0.1) or auto"
        ) from None
    if len(values) > MOST:
        raise OptionError(f"{what} {text!r} has more than {MOST:,} values")
    return tuple(sorted(values))


def _part(text: str) -> list[float]:
    """A number, or FROM:TO:STEP."""
    words = [Decimal(word.strip()) for word in text.split(":")]
    if len(words) not in (1, 3) or not all(word.is_finite() for word in words):
        raise ValueError
    if len(words) == 1:
        return [float(words[0])]
    low, high, step = words
    if step <= 0 or high < low:
        raise ValueError
    count = min(int((high - low) / step), MOST)
    return [float(low + i * step) for i in range(count + 1)]


def published(option: str, models: int) -> Values:
    """The grid that `auto` stands for, () if an option has none."""
    if option == "k":
        return tuple(float(k) for k in range(1, models + 1))
    return PUBLISHED.get(option, ())
