"""Draws the charts of a page, as plotly figures in the light colours.

Text in plotly is markup, so every name is escaped for it. Heights follow from the number of rows;
widths are the page's. Bars are horizontal, so that names beside them can be read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from typing import TYPE_CHECKING, Any

from taskstore import extras
from taskstore.analysis.page import palette

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

Matrix = Sequence[Sequence[float | None]]
ROW, THIN_ROW = 26, 15  # pixels of a row, and where there are many
MANY = 40
DEEP = 0.64  # of a scale, from where on its colours are too deep for dark text
LONGEST = 24  # characters of a name beside a chart
PARTS = {
    "base": palette.GREY,
    "fine-tunes": palette.ORANGE,
    "multi-task model": palette.TEAL,
    "masks": palette.BLUE,
    "rest, quantised": palette.PURPLE,
    "exact tensors": palette.GREEN,
    "private tensors": palette.RED,
    "configs, tokenizers": palette.BROWN,
    "manifest, card": palette.MUTED,
}
TIERS = {
    "base": palette.GREY,
    "mask": palette.BLUE,
    "rest": palette.PURPLE,
    "exact": palette.GREEN,
    "rebuilt": palette.TEAL,
    "fine-tune": palette.ORANGE,
}


@dataclass(frozen=True)
class HeatMap:
    """What is shown: `of` names the number, `low` and `high` are the ends of its colours."""

    rows: Sequence[str]
    columns: Sequence[str]
    values: Matrix
    of: str
    low: float = 0
    high: float = 1
    hover: Matrix | None = None  # a second number per cell
    hover_of: str = ""
    pairs: bool = False  # of the same names: the diagonal says nothing and is grey


def require() -> Any:
    """plotly's graph objects; raises MissingExtra."""
    extras.need("a report", "plotly")
    from plotly import graph_objects

    return graph_objects


def heat_map(of: HeatMap) -> Figure:
    """The page's script gives it margins and a height that fit its names."""
    scale = palette.DIVERGING if of.low < 0 else palette.SEQUENTIAL
    if of.pairs:
        of = replace(
            of,
            values=[
                [None if i == j else x for j, x in enumerate(row)]
                for i, row in enumerate(of.values)
            ],
        )
    values = [[None if x is None else round(x, 4) for x in row] for row in of.values]
    more = f"<br>{of.hover_of} %{{customdata:,}}" if of.hover else ""
    trace = require().Heatmap(
        x=names(of.columns),
        y=names(of.rows),
        z=values,
        customdata=of.hover,
        colorscale=scale,
        zmin=of.low,
        zmax=of.high,
        showscale=False,
        xgap=1,
        ygap=1,
        hoverongaps=False,
        hovertemplate=f"%{{y}}<br>%{{x}}<br>{of.of} %{{z:.3f}}{more}<extra></extra>",
    )
    few = len(of.columns) <= 12 and len(of.rows) <= MANY
    more_traces = [*([_numbers(of)] if few else []), *([_diagonal(of)] if of.pairs else [])]
    figure = _figure(trace, *more_traces, height=height(len(of.rows)) + 90)
    _category(figure.layout.xaxis, of.columns, showgrid=False, side="top", automargin=False)
    _downwards(figure.layout.yaxis, of.rows, showgrid=False, automargin=False)
    figure.layout.meta = {"row": THIN_ROW if len(of.rows) > MANY else ROW}
    return figure


def _diagonal(of: HeatMap) -> Any:
    """Grey cells where a row meets itself."""
    count = range(len(of.rows))
    return require().Heatmap(
        x=names(of.columns),
        y=names(of.rows),
        z=[[1 if i == j else None for j in count] for i in count],
        colorscale=[(0, palette.GRID), (1, palette.GRID)],
        showscale=False,
        xgap=1,
        ygap=1,
        hoverongaps=False,
        hoverinfo="skip",
    )


def _numbers(of: HeatMap) -> Any:
    """The cells' numbers, in a colour that can be read on the cell's."""
    cells = [
        (row, column, x)
        for row, line in zip(names(of.rows), of.values, strict=True)
        for column, x in zip(names(of.columns), line, strict=True)
        if x is not None
    ]
    deep = [abs(x) / max(of.high, abs(of.low)) > DEEP for _, _, x in cells]
    return require().Scatter(
        x=[column for _, column, _ in cells],
        y=[row for row, _, _ in cells],
        text=[f"{x:.2f}" for *_, x in cells],
        mode="text",
        textfont={"size": 11, "color": [palette.ON_DEEP if d else palette.INK for d in deep]},
        hoverinfo="skip",
        showlegend=False,
    )


def bars(
    rows: Sequence[str],
    series: Mapping[str, Sequence[float | None]],
    colors: Mapping[str, str],
    *,
    unit: str,
    format: str = ".3~s",
    suffix: str = "",
    stacked: bool = True,
    share: bool = False,
) -> Figure:
    """Horizontal bars, `colors` by the names of the series; `share` makes rows equally long."""
    shown = "%{x:.1f} %" if share else f"%{{x:{format}}}{suffix}"
    traces = [
        require().Bar(
            y=names(rows),
            x=_shares(values, series.values()) if share else values,
            name=escape(name, quote=False),
            orientation="h",
            marker={"color": colors[name], "line": {"width": 0}},
            hovertemplate=f"%{{y}}<br>%{{fullData.name}}: {shown}<extra></extra>",
        )
        for name, values in series.items()
    ]
    lines = len(rows) * (1 if stacked else 0.45 + 0.55 * len(series))
    figure = _figure(*traces, height=height(len(rows), lines) + 60)
    _downwards(figure.layout.yaxis, rows, showgrid=False)
    figure.update_layout(
        barmode="stack" if stacked else "group",
        bargap=0.25,
        bargroupgap=0.08,
        showlegend=False,
        xaxis={
            "title": {"text": "share, %" if share else unit, "font": {"size": 12}},
            "range": [0, 100] if share else None,
            "rangemode": "tozero",
            "tickformat": "d" if share else format,
            "ticksuffix": suffix,
        },
    )
    return figure


def dots(rows: Sequence[str], values: Sequence[float], *, unit: str) -> Figure:
    """A dot for each row, for numbers whose distance from zero says nothing."""
    trace = require().Scatter(
        y=names(rows),
        x=values,
        mode="markers",
        marker={"color": palette.BLUE, "size": 11},
        hovertemplate=f"%{{y}}<br>{unit} %{{x:g}}<extra></extra>",
    )
    figure = _figure(trace, height=height(len(rows)) + 60)
    _downwards(figure.layout.yaxis, rows)
    title = {"text": unit, "font": {"size": 12}}
    figure.update_layout(xaxis={"title": title, "rangemode": "tozero"})
    return figure


def names(texts: Sequence[str]) -> list[str]:
    """Names as plotly shows them: no markup, and never a number or a date."""
    return [escape(text, quote=False) for text in texts]


def height(rows: int, lines: float | None = None) -> int:
    """Pixels that rows take."""
    return round((THIN_ROW if rows > MANY else ROW) * max(1.5, lines or rows))


def _shares(values: Sequence[float | None], every: Any) -> list[float]:
    totals = [sum(x or 0 for x in column) or 1 for column in zip(*every, strict=True)]
    return [100 * (x or 0) / total for x, total in zip(values, totals, strict=True)]


def _downwards(axis: Any, texts: Sequence[str], **more: Any) -> None:
    """The first name on top, no room beyond the last."""
    _category(axis, texts, range=[len(texts) - 0.5, -0.5], **more)


def _category(axis: Any, texts: Sequence[str], **more: Any) -> None:
    """An axis of names, long ones cut beside the chart (hovering shows them whole)."""
    short = {name: _cut(text) for name, text in zip(names(texts), texts, strict=True)}
    axis.update(
        type="category",
        labelalias={name: text for name, text in short.items() if name != text},
        ticks="",
        tickfont={"size": 11 if len(texts) <= MANY else 10},
        dtick=1,
        **more,
    )


def _cut(text: str) -> str:
    if len(text) > LONGEST:
        text = f"{text[: LONGEST // 2 - 1]}…{text[-(LONGEST // 2) :]}"
    return escape(text, quote=False)


def _figure(*traces: Any, height: int) -> Figure:
    go = require()
    axis = {
        "automargin": True,
        "fixedrange": True,
        "gridcolor": palette.GRID,
        "linecolor": palette.GRID,
        "zerolinecolor": palette.GRID,
    }
    return go.Figure(
        list(traces),
        go.Layout(
            template="none",
            height=height,
            margin={"l": 4, "r": 16, "t": 8, "b": 4},
            font={"family": "system-ui, sans-serif", "size": 12, "color": palette.INK},
            paper_bgcolor="rgba(0,0,0,0)",
            plot_bgcolor="rgba(0,0,0,0)",
            xaxis=axis,
            yaxis=axis,
            dragmode=False,
            hoverlabel={
                "bgcolor": palette.PAPER,
                "bordercolor": palette.GRID,
                "font": {"color": palette.INK},
                "namelength": -1,
            },
        ),
    )
