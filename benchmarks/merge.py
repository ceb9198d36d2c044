"""`taskstore merge` beside mergekit on the same models: seconds, bytes per second, peak memory.

    python benchmarks/merge.py --params 1e8 --tasks 8
    python benchmarks/merge.py --family DIR --base base --tasks billing,legal

Both are processes of their own and alternate, mergekit with one thread and with as many as
taskstore gets (the faster counts). mergekit trims TIES per tensor; `ties, per tensor` does so, too,
and `ties` trims the whole model, as published. A last side merges half of the models: peak
memory must not grow with their number.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import click
from rich.console import Console

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.common import envs, table
from benchmarks.common.cache import Cache
from benchmarks.common.experiment import warm_up
from benchmarks.common.given import family_options, given_family, title_of
from benchmarks.common.lines import Cell, Line, Target, seconds_of
from benchmarks.common.measure import Run, Side, alternate
from benchmarks.common.sides import Sides

WIDTH = 110
Say = Callable[[str], None]
DENSITY = 0.2
METHODS = {
    "task_arithmetic": ("sum", {}, None),
    "ties, per tensor": ("ties", {"density": DENSITY, "per_tensor": 1.0}, DENSITY),
    "ties": ("ties", {"density": DENSITY}, DENSITY),
}


@click.command()
@family_options(params=1e8, tasks=8)
@click.option("--repeat", type=int, default=3, show_default=True, help="Runs of each side.")
def main(
    params: float,
    tasks: str,
    dtype: str,
    root: Path | None,
    base: str,
    jobs: int,
    work: Path,
    repeat: int,
    keep: bool,
) -> None:
    """Merge a family with both tools; every line is a ratio of two sides of one run."""
    say = Console(stderr=True).print
    envs.ensure("mergekit")
    lines: list[Line] = []
    with given_family(root, base, params, tasks, dtype, jobs, work, keep) as (family, scratch):
        title = title_of(family)
        sides = Sides(family, scratch, jobs, Cache.fitting(family.nbytes))
        warm_up(sides.work, family.dtype, jobs)
        startup = sides.mergekit_startup()
        alternate([startup], 2, say)
        for what, (method, options, density) in METHODS.items():
            lines += compared(sides, what, (method, options, density), startup, repeat, say)
        lines.append(half(sides, say))
    console = Console() if sys.stdout.isatty() else Console(width=WIDTH)
    console.print(table.make(lines, title, f"Medians of {repeat}; {jobs} threads."))


def compared(
    sides: Sides,
    what: str,
    given: tuple[str, dict[str, float], float | None],
    startup: Side,
    repeat: int,
    say: Say,
) -> list[Line]:
    """Time of the whole process and without start-up, and peak memory."""
    method, options, density = given
    ours = sides.merge(method, options)
    name = "ties" if density else "task_arithmetic"
    others = [sides.mergekit(n, name, density) for n in sorted({1, sides.jobs})]
    alternate([ours, *others], repeat, say)
    other = min(others, key=lambda side: side.median(seconds_of))
    inputs = sides.family.nbytes
    started = startup.runs[-1].seconds
    peaks = [max(run.peak for run in side.runs) for side in (ours, other)]
    anonymous = max(run.anonymous for run in other.runs)
    lines = []
    for label, mine, theirs in (
        ("whole process", ours.median(seconds_of), other.median(seconds_of)),
        ("less start-up", ours.median(_work), other.median(seconds_of) - started),
    ):
        cells = (
            Cell(ours.name, mine, inputs / mine, peak=peaks[0]),
            Cell(other.name, theirs, inputs / theirs, peak=peaks[1]),
        )
        ratio = theirs / mine
        lines.append(Line(f"{what}, {label}", *cells, ratio, "as fast", Target("> 1", ratio > 1)))
    ratio = peaks[0] / peaks[1]
    above = max(int(run.says["above_imports"]) for run in ours.runs)
    note = f"of it anonymous {anonymous / 2**20:,.0f} MiB"
    memory = (
        Cell(ours.name, peak=peaks[0], note=f"above the imports {above / 2**20:,.0f} MiB"),
        Cell(other.name, peak=peaks[1], note=note),
    )
    return [
        *lines,
        Line(f"{what}, memory", *memory, ratio, "the bytes", Target("< 1", ratio < 1)),
    ]


def half(sides: Sides, say: Say) -> Line:
    """Peak memory of all models beside that of half of them."""
    some = dict(list(sides.family.tasks.items())[: max(2, len(sides.family.tasks) // 2)])
    fewer = replace(sides, family=replace(sides.family, tasks=some))
    runs = []
    for each in (sides, fewer):
        side = each.merge("sum", {})
        alternate([side], 1, say)
        runs.append(int(side.runs[-1].says["above_imports"]))
    cells = (
        Cell(f"{len(sides.family.tasks)} models, above the imports", peak=runs[0]),
        Cell(f"{len(some)} models", peak=runs[1]),
    )
    return Line("memory by number of models", *cells, runs[0] / runs[1], "the bytes")


def _work(run: Run) -> float:
    return run.work


if __name__ == "__main__":
    main()
