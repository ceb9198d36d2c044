"""What was measured as lines of two sides and their ratio, and one row for each size."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from benchmarks.common.lines import Cell, Line, Target
from benchmarks.common.table import size

COPY_GOAL = {"cpu": 0.6, "cuda": 0.8}  # share of the speed of a copy
RELOAD_GOAL = {"cpu": 10.0}  # times as fast
LOAD_GOAL = 1.3  # times as long
FLAT = (0.8, 1.25)  # of a cost that does not depend on the number of tasks


@dataclass(frozen=True)
class Figures:
    """What a worker found; `kind` of device is cpu or cuda."""

    found: Mapping[str, Any]
    kind: str

    def median(self, way: str) -> float:
        return float(statistics.median(self.found["seconds"][way]))

    def get(self, count: str) -> int:
        """parameters, tasks, elements, or bytes: live."""
        return int(self.found[count])

    def timed(self, way: str, name: str) -> Cell:
        """Bytes per second are those of the model."""
        seconds = self.median(way)
        return Cell(name, note=f"{span(seconds)}, {size(self.get('live') / seconds)}/s")


def of_family(figures: Figures) -> list[Line]:
    return [*_speed(figures), *_loading(figures), *_memory(figures), *_tasks(figures)]


def _speed(figures: Figures) -> list[Line]:
    swap = figures.timed("swap", "swap")
    lines = []
    for way, name, goal in (
        ("copy", "copy of the same bytes", COPY_GOAL[figures.kind]),
        ("reload", "load_file, load_state_dict", RELOAD_GOAL.get(figures.kind)),
        ("delta", "minus one delta, plus another", None),
    ):
        ratio = figures.median(way) / figures.median("swap")
        target = None if goal is None else Target(f">= {goal:g}", ratio >= goal)
        lines.append(Line("swap", swap, figures.timed(way, name), ratio, "as fast", target))
    return lines


def _loading(figures: Figures) -> list[Line]:
    load = figures.timed("load", "state_dict of a task")
    file = figures.timed("load_file", "load_file, all pages read")
    attach = figures.timed("attach", f"attach, {figures.get('tasks')} tasks")
    ratio = figures.median("load") / figures.median("load_file")
    target = Target(f"<= {LOAD_GOAL}", ratio <= LOAD_GOAL)
    unproved = figures.timed("attach, unproved", "attach, prove=False")
    against_load = figures.median("attach") / figures.median("load")
    proof = figures.median("attach") / figures.median("attach, unproved")
    return [
        Line("load", load, file, ratio, "the time", target),
        Line("attach", attach, load, against_load, "the time"),
        Line("attach, proved", attach, unproved, proof, "the time"),
    ]


def _memory(figures: Figures) -> list[Line]:
    memory = figures.found["memory"]
    live, masks = figures.get("live"), figures.get("tasks") * figures.get("parameters") // 8
    names = ("live", "delta", "masks", "active", "values", "staging")
    parts = "\n".join(f"{name} {size(memory[name])}" for name in names if memory[name])
    lines = []
    for what, ours, formula, nbytes in (
        (
            "memory",
            Cell("family.memory()", nbytes=memory["total"], note=parts),
            "live + D + T bits each",
            2 * live + masks,
        ),
        (
            "memory of attach",
            Cell("growth of the process", nbytes=memory["grown"], peak=memory["grown_peak"]),
            "D + T bits each",
            live + masks,
        ),
    ):
        assert ours.nbytes is not None
        other = Cell(formula, nbytes=nbytes)
        lines.append(Line(what, ours, other, ours.nbytes / nbytes, "the bytes"))
    return lines


def _tasks(figures: Figures) -> list[Line]:
    if "swap, 2 tasks" not in figures.found["seconds"]:
        return []
    every = figures.timed("swap, all tasks", f"swap, {figures.get('tasks')} tasks attached")
    two = figures.timed("swap, 2 tasks", "swap, 2 tasks attached")
    ratio = figures.median("swap, all tasks") / figures.median("swap, 2 tasks")
    target = Target("about 1", FLAT[0] <= ratio <= FLAT[1])
    return [Line("cost of tasks", every, two, ratio, "the time", target)]


def of_kernels(figures: Figures) -> list[Line]:
    """One thread; the compiled one runs on the CPU, so it must be the fastest."""

    def cell(way: str, name: str) -> Cell:
        seconds = figures.median(way)
        rate = figures.get("elements") / seconds / 1e9
        return Cell(name, note=f"{span(seconds)}, {rate:.2f} Gelem/s")

    lines = []
    for way, name in (("torch", "reference.swap, torch"), ("numpy", "unpackbits, where, xor")):
        ratio = figures.median(way) / figures.median("native")
        cells = cell("native", "cpu.swap, C++"), cell(way, name)
        lines.append(Line("kernel alone", *cells, ratio, "as fast", Target("> 1", ratio > 1)))
    return lines


def over_sizes(sizes: Sequence[Figures]) -> Table:
    """How all of it grows with the model: one row each."""
    table = Table(title="Over sizes", title_justify="left")
    for name in (
        "parameters",
        "swap",
        "ns per parameter",
        "GB/s",
        "of a copy",
        "of a reload",
        "attach",
        "memory",
    ):
        table.add_column(name, justify="right")
    for figures in sizes:
        swap, parameters = figures.median("swap"), figures.get("parameters")
        table.add_row(
            f"{parameters / 1e6:,.0f}M",
            span(swap),
            f"{swap / parameters * 1e9:.3f}",
            f"{figures.get('live') / swap / 1e9:.2f}",
            f"{figures.median('copy') / swap:.0%}",
            f"{figures.median('reload') / swap:.1f}x",
            span(figures.median("attach")),
            size(figures.found["memory"]["total"]),
        )
    return table


def span(seconds: float) -> str:
    """0.00123 -> "1.23 ms"."""
    return f"{seconds * 1e3:.2f} ms" if seconds < 1 else f"{seconds:.2f} s"
