"""Plot a search: a line of scores per task and one of their mean, or a heat map of two axes.

A search that draws its points is plotted as it ran: the scores by the number of the model, and the
best up to there. Of several evaluators the first two are the axes, with the Pareto front as a line.

The figure is plain data for Plotly. A .json file holds only the data. A .html file also holds the
code that draws it, and needs nothing else.
"""

from __future__ import annotations

import importlib
import json
from itertools import accumulate
from pathlib import Path
from typing import Any

from taskstore import extras
from taskstore.errors import OptionError, OutputError
from taskstore.locations import ownership, publish
from taskstore.merging.search.front import Front, OnFront
from taskstore.merging.search.outcome import Points, Searched
from taskstore.merging.search.trials import words

ENDS = {".html": ownership.HTML, ".json": ownership.JSON}
COLORS = ["#4c78a8", "#72b7b2", "#54a24b", "#b279a2", "#9d755d", "#f58518", "#bab0ac"]
CHOSEN = {"symbol": "star", "size": 16, "color": "#d62728", "line": {"width": 1, "color": "white"}}


def check(path: Path, axes: int | None, *, overwrite: bool = False) -> None:
    """Raise OptionError, OutputError or MissingExtra if `write` would; call it before a search.

    `axes` None: a search that draws its points.
    """
    if path.suffix not in ENDS:
        raise OptionError(f"the plot {path} has no name that ends in {' or '.join(ENDS)}")
    if axes not in (1, 2, None):
        raise OptionError(f"a plot shows a search of one or two things; {axes} are searched")
    if not path.absolute().parent.is_dir():
        raise OutputError(f"the plot {path} has no folder to be in; make {path.parent} first")
    publish.check_file(path, overwrite=overwrite, ours=is_plot)
    if path.suffix == ".html":
        _plotly()


def write(path: Path, found: Searched | OnFront, *, overwrite: bool = False) -> None:
    """Write the plot of a search; raises OutputError, TargetExists."""
    picture = figure(found)
    if path.suffix == ".html":
        text = _plotly().to_html(
            picture, include_plotlyjs=True, default_height="95vh", config={"displaylogo": False}
        )
    else:
        text = json.dumps(picture, indent=1).removesuffix("}").rstrip()
    with publish.file(path, overwrite=overwrite, ours=is_plot) as partial:
        partial.write_text(ownership.sealed(text, ENDS[path.suffix]), encoding="utf-8")


def is_plot(path: Path) -> bool:
    """Whether a file is a plot as it was written, which `overwrite` may replace."""
    return ownership.is_sealed(path, ENDS[path.suffix])


def figure(found: Searched | OnFront) -> dict[str, Any]:
    """Plotly's data and layout."""
    report = found.report
    count = len(report.models)
    title = f"{report.method}: {count} fine-tune{'' if count == 1 else 's'} of {report.base}"
    if isinstance(found, OnFront):
        data, (x, y, *_) = _front(found.front), found.front.names
    else:
        points = found.points
        first, *others = points.axes
        drawn = points.seed is not None
        data = _run(points) if drawn else _map(points) if others else _lines(points)
        x = "models scored" if drawn else first
        y = others[0] if others and not drawn else points.scored
    return {
        "data": data,
        "layout": {
            "title": {"text": _plain(title)},
            "xaxis": {"title": {"text": _plain(x)}},
            "yaxis": {"title": {"text": _plain(y)}},
            "colorway": COLORS,
        },
    }


def _front(front: Front) -> list[dict[str, Any]]:
    x, y = ([scores[e].mean for scores in front.scores] for e in (0, 1))
    texts = [_plain(words(front.axes, values)) for values in front.values]
    each = {"type": "scatter", "mode": "markers", "name": "models", "x": x, "y": y, "text": texts}
    along = {"width": 3, "color": "#222222", "shape": "linear"}
    line = _line("Pareto front", [x[i] for i in front.front], [y[i] for i in front.front], along)
    line["text"] = [f"point {n}: {texts[i]}" for n, i in enumerate(front.front, 1)]
    chosen = {"type": "scatter", "mode": "markers", "x": [x[front.best]], "y": [y[front.best]]}
    name = f"chosen: point {front.front.index(front.best) + 1}"
    return [each, line, {**chosen, "name": name, "text": [texts[front.best]], "marker": CHOSEN}]


def _run(points: Points) -> list[dict[str, Any]]:
    means = [scores.mean for scores in points.scores]
    x = [float(i) for i in range(1, len(means) + 1)]
    best = list(accumulate(means, min if points.minimise else max))
    each = {"type": "scatter", "mode": "markers", "name": _plain(points.scored), "x": x, "y": means}
    each["text"] = [_plain(words(points.axes, values)) for values in points.values]
    step = {"width": 3, "color": "#222222", "shape": "hv"}
    return [each, _line("best so far", x, best, step) | {"mode": "lines"}]


def _lines(points: Points) -> list[dict[str, Any]]:
    x = [values[0] for values in points.values]
    tasks = list(points.scores[0].named)
    each = [
        _line(task, x, [scores.tasks[task] for scores in points.scores], {"width": 1.5})
        for task in (tasks if len(tasks) > 1 else ())
    ]
    means = [scores.mean for scores in points.scores]
    name = tasks[0] if len(tasks) == 1 else points.scored
    mean = _line(name, x, means, {"width": 4, "color": "#222222"})
    return [*each, mean, _chosen(points, x[points.best], means[points.best])]


def _line(name: str, x: list[float], y: list[float], line: dict[str, Any]) -> dict[str, Any]:
    scatter = {"type": "scatter", "mode": "lines+markers", "name": _plain(name)}
    return {**scatter, "x": x, "y": y, "line": line}


def _map(points: Points) -> list[dict[str, Any]]:
    across, down = points.axes.values()
    means = {at: s.mean for at, s in zip(points.values, points.scores, strict=True)}
    x, y = points.values[points.best]
    grid = {
        "type": "heatmap",
        "x": list(across),
        "y": list(down),
        "colorscale": "Viridis",
        "z": [[means.get((a, d)) for a in across] for d in down],  # None: it has no score
        "reversescale": points.minimise,
        "colorbar": {"title": {"text": points.scored}},
    }
    return [grid, _chosen(points, x, y)]


def _chosen(points: Points, x: float, y: float) -> dict[str, Any]:
    name = words(points.axes, points.values[points.best])
    chosen = {"type": "scatter", "mode": "markers", "name": f"chosen: {name}", "x": [x], "y": [y]}
    return {**chosen, "marker": CHOSEN, "showlegend": len(points.axes) == 1}


def _plain(text: str) -> str:
    """The text, escaped so that Plotly takes none of it for markup."""
    return text.replace("&", "&amp;").replace("<", "&lt;")


def _plotly() -> Any:
    extras.need("a plot in .html", "plotly")
    return importlib.import_module("plotly.io")
