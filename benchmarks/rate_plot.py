"""Rate against accuracy as a picture: one panel per family, baselines grey, ours in colour.

    python benchmarks/rate_plot.py results.jsonl --ours ours.jsonl -o rate.png

Needs matplotlib (pip install matplotlib) and nothing else of this project, so it also runs in an
environment of its own.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.rates.results import Result, load

FLOOR = 0.5  # shares below are drawn on the lower edge
LEAST, MOST = 0.09, 5.0  # bits; points beyond are left out
BITS = (0.1, 0.2, 0.3, 0.5, 1, 2, 3, 5)
TOP = 1.02  # the axis of shares is -log(TOP - share): losses of 1 % and of 30 % are both seen
TICKS = (0.5, 0.7, 0.8, 0.9, 0.95, 0.97, 0.98, 0.99, 1.0)
LABELS = {
    "tall": ("TALL masks, sum", "o"),
    "tall-ties": ("TALL masks, TIES", "s"),
    "magnitude": ("magnitude masks", "v"),
    "emr": ("EMR", "*"),
    "bitdelta": ("sign planes (BitDelta)", "^"),
    "tvq": ("TVQ", "D"),
    "rtvq": ("RTVQ", "d"),
    "tsv": ("TSV compress", "X"),
    "tsv8": ("TSV compress, 8 bits", "P"),
    "delta-come": ("Delta-CoMe, without data", "<"),
    "low-rank-rest": ("factors, quantised rest", ">"),
    "d-qrelo": ("D-QReLO", "h"),
    "ultradelta": ("UltraDelta", "p"),
}
GREYS = ["#222222", "#4d4d4d", "#707070", "#8c8c8c", "#5c6670", "#8a7f72", "#a0a0a0", "#33404d"]
GREYS += ["#665544", "#3f5f7f", "#7f7f5f", "#5f7f6f", "#9f5f3f"]
DASHES = ["-", "--", ":", "-", "-", "--", "-.", ":", "--", "-", ":", "-.", "-"]
COLOURS = ["#d62728", "#1f77b4", "#2ca02c", "#9467bd", "#ff7f0e"]


def draw(results: Path, ours: Path | None, target: Path) -> None:
    """Raises ValueError where matplotlib is missing or there is nothing to draw."""
    try:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot
    except ImportError:
        raise ValueError("a plot needs matplotlib: pip install matplotlib") from None
    found, own = list(load(results).values()), list(load(ours).values())
    families = list(dict.fromkeys(one.family for one in [*found, *own]))
    if not families:
        raise ValueError(f"{results} holds no results")
    size = (4.6 * len(families), 4.4)
    figure, axes = pyplot.subplots(1, len(families), figsize=size, sharey=True, squeeze=False)
    for axis, family in zip(axes[0], families, strict=True):
        _panel(axis, family, found, own)
    axes[0][0].set_ylabel("share of the fine-tunes' score\nmean over tasks; faint: worst task")
    handles = {
        label: handle
        for axis in axes[0]
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    columns = min(len(handles), 5)
    figure.legend(
        handles.values(),
        handles.keys(),
        loc="lower center",
        ncol=columns,
        frameon=False,
        fontsize=8,
    )
    rows = -(-len(handles) // columns)
    figure.tight_layout(rect=(0, 0.02 + 0.05 * rows, 1, 1))
    figure.savefig(target, dpi=110)
    pyplot.close(figure)


def _panel(axis: Any, family: str, found: list[Result], own: list[Result]) -> None:
    for i, (method, (label, marker)) in enumerate(LABELS.items()):
        points = _points(found, family, method)
        style = {"color": GREYS[i], "linestyle": DASHES[i], "linewidth": 1.0, "markersize": 4.5}
        _line(axis, points, label, marker, 2, **style)
    for i, method in enumerate(dict.fromkeys(one.method for one in own)):
        points = _points(own, family, method)
        style = {"color": COLOURS[i % len(COLOURS)], "linewidth": 1.8, "markersize": 6.0}
        _line(axis, points, f"taskstore, {method}", "o", 3, **style)
    axis.axhline(1.0, color="#cccccc", linewidth=0.8, zorder=0)
    axis.set_title(family, fontsize=10)
    axis.set_xlabel("bits per weight and task, base not counted")
    axis.set_xscale("log")
    axis.set_xlim(LEAST, MOST)
    axis.set_xticks(BITS, [f"{bits:g}" for bits in BITS])
    axis.set_yscale("function", functions=(_stretched, lambda y: TOP - 10.0**-y))
    axis.set_yticks(TICKS, [f"{tick:.0%}" for tick in TICKS])
    axis.minorticks_off()
    axis.set_ylim(FLOOR - 0.02, TOP - 0.01)
    axis.grid(color="#eeeeee", linewidth=0.6)
    axis.set_axisbelow(True)


def _stretched(y: Any) -> Any:
    import numpy as np

    return -np.log10(np.maximum(TOP - y, 1e-3))


def _points(results: Iterable[Result], family: str, method: str) -> list[Result]:
    wanted = [one for one in results if one.family == family and one.method == method]
    wanted = [one for one in wanted if LEAST <= one.bits <= MOST]
    return sorted(wanted, key=lambda one: one.bits)


def _line(
    axis: Any, points: list[Result], label: str, marker: str, order: int, **style: Any
) -> None:
    """The mean as a line, the worst task as a faint marker below each point."""
    if not points:
        return
    x = [one.bits for one in points]
    mean = [min(TOP - 0.012, max(FLOOR, one.mean)) for one in points]
    worst = [max(FLOOR, one.kept[one.worst]) for one in points]
    axis.plot(x, mean, label=label, marker=marker, zorder=order, **style)
    axis.vlines(x, worst, mean, color=style["color"], linewidth=0.6, alpha=0.3, zorder=1)
    small = style["markersize"] * 0.7
    axis.plot(
        x, worst, linestyle="", marker=marker, color=style["color"], alpha=0.3, markersize=small
    )


@click.command()
@click.argument("results", type=click.Path(path_type=Path))
@click.option("--ours", type=click.Path(path_type=Path), help="What rate_ours.py has written.")
@click.option("-o", "target", type=click.Path(path_type=Path), required=True)
def main(results: Path, ours: Path | None, target: Path) -> None:
    """Draw the results of rate.py."""
    try:
        draw(results, ours, target)
    except (OSError, ValueError) as error:
        raise click.ClickException(str(error)) from error


if __name__ == "__main__":
    main()
