"""Colours, each as a pair for a light and a dark page.

Figures are made in the light colours. The page's script puts the dark ones in their place, so one
set of figures serves light pages, dark pages and print.
"""

from __future__ import annotations

from collections.abc import Sequence

Scale = list[tuple[float, str]]

INK = "#1f2933"
MUTED = "#5b6672"
GRID = "#e1e6eb"
PAPER = "#ffffff"
ON_DEEP = "#fdfdfd"  # text on the deep end of a scale
GREY = "#b4bcc5"
BLUE = "#2f6db5"
ORANGE = "#d9731a"
GREEN = "#3b8f5a"
PURPLE = "#7a5bb5"
TEAL = "#1b8a94"
RED = "#c23b4b"
BROWN = "#8d6b4a"

_SEQUENTIAL = (
    ("#eef3fa", "#16202b"),
    ("#bcd3ee", "#1f3d5e"),
    ("#7fabdd", "#2b629b"),
    ("#3f7cc0", "#559bdd"),
    ("#0f4a8a", "#b5d8ff"),
)
_DIVERGING = (
    ("#a94a14", "#f7a066"),
    ("#e6ae86", "#8a5433"),
    ("#f4f4f1", "#20252c"),
    ("#8db4e2", "#33628f"),
    ("#1b549c", "#92c5fd"),
)
_FIRST = 0.3  # where on the sequential scale the shades of bars begin


def _scale(side: int, pairs: Sequence[tuple[str, str]]) -> Scale:
    return [(i / (len(pairs) - 1), pair[side]) for i, pair in enumerate(pairs)]


def _at(scale: Scale, x: float) -> str:
    """The colour at `x`, between its neighbours."""
    i = max(k for k in range(len(scale) - 1) if scale[k][0] <= x)
    (low, one), (high, other) = scale[i], scale[i + 1]
    share = (x - low) / (high - low)
    channels = (
        round((1 - share) * int(one[k : k + 2], 16) + share * int(other[k : k + 2], 16))
        for k in (1, 3, 5)
    )
    return "#" + "".join(f"{channel:02x}" for channel in channels)


def _shades(count: int, side: int) -> list[str]:
    scale = _scale(side, _SEQUENTIAL)
    return [_at(scale, _FIRST + (1 - _FIRST) * (i + 1) / count) for i in range(count)]


SEQUENTIAL = _scale(0, _SEQUENTIAL)
DIVERGING = _scale(0, _DIVERGING)
SHADES = {count: _shades(count, 0) for count in range(1, 33)}  # blues, from light to deep

DARK = {
    INK: "#e6e9ee",
    MUTED: "#9eabb9",
    GRID: "#2d3641",
    PAPER: "#12171d",
    ON_DEEP: "#0c1117",
    GREY: "#5d6977",
    BLUE: "#6aa5ea",
    ORANGE: "#f0984a",
    GREEN: "#62bd84",
    PURPLE: "#ab8fe3",
    TEAL: "#46bcc6",
    RED: "#ef7480",
    BROWN: "#c09a73",
    **dict(_SEQUENTIAL),
    **dict(_DIVERGING),
    **{light: dark for n, row in SHADES.items()
       for light, dark in zip(row, _shades(n, 1), strict=True)},
}  # fmt: skip
