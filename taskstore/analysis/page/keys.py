"""Explains the colours of a chart, as HTML, which wraps on a phone where plotly's own does not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape

from taskstore.analysis.page import palette
from taskstore.analysis.page.figures import HeatMap


def legend(names: Iterable[str], colors: Mapping[str, str]) -> str:
    """A swatch for each name."""
    swatches = "".join(
        f"<li>{_patch(colors[name], palette.DARK[colors[name]])}{escape(name)}</li>"
        for name in names
    )
    return f'<ul class="key">{swatches}</ul>'


def scale(of: HeatMap) -> str:
    """A strip from the lowest to the highest colour."""
    stops = palette.DIVERGING if of.low < 0 else palette.SEQUENTIAL
    light, dark = (
        f"linear-gradient(to right,{','.join(colors)})"
        for colors in ([c for _, c in stops], [palette.DARK[c] for _, c in stops])
    )
    strip = f"{of.low:.2g} {_patch(light, dark)} {of.high:.2g}"
    return f'<p class="key scale">{escape(of.of)}: {strip}</p>'


def _patch(light: str, dark: str) -> str:
    return f'<i style="--light:{light};--dark:{dark}"></i>'
