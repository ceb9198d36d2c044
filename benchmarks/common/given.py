"""Which family a benchmark is of: the options that say so, and the family while it is measured."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from benchmarks.common.experiment import make_family, task_names
from benchmarks.common.family import Family, open_family
from benchmarks.common.sides import HERE, remove

Command = Callable[..., Any]


def family_options(params: float, tasks: int) -> Callable[[Command], Command]:
    """Options of a family, from --params to --keep, with these defaults."""
    cores = len(os.sched_getaffinity(0))
    options = [
        click.option(
            "--params", type=float, default=params, show_default=True, help="Of each model."
        ),
        click.option(
            "--tasks", default=str(tasks), show_default=True, help="How many, or NAME,NAME,..."
        ),
        click.option(
            "--dtype", type=click.Choice(["bf16", "f16", "f32"]), default="bf16", show_default=True
        ),
        click.option(
            "--family", "root", type=click.Path(path_type=Path), help="Real models, not made."
        ),
        click.option(
            "--base", default="base", show_default=True, help="Name of the base below --family."
        ),
        click.option("--jobs", type=int, default=lambda: cores, help="Threads."),
        click.option(
            "--work", type=click.Path(path_type=Path), default=HERE / ".data", help="Scratch."
        ),
        click.option(
            "--keep", is_flag=True, help="Leave a synthetic family in --work for the next run."
        ),
    ]

    def add(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return add


def title_of(family: Family) -> str:
    """Of a table; reads the base's files."""
    millions = f"{family.parameters / 1e6:,.0f}M"
    return f"{len(family.tasks)} fine-tunes of {millions} parameters, {family.dtype}"


@contextmanager
def given_family(
    root: Path | None,
    base: str,
    params: float,
    tasks: str,
    dtype: str,
    jobs: int,
    work: Path,
    keep: bool,
) -> Iterator[tuple[Family, Path]]:
    """A real family below `root`, or a synthetic one that goes unless kept; and scratch."""
    folder = (root or work / f"family-{params:.0f}x{tasks}-{dtype}").resolve()
    work.mkdir(parents=True, exist_ok=True)
    if root is None:
        make_family(folder, params, int(tasks), dtype, jobs)
    try:
        with tempfile.TemporaryDirectory(dir=work.resolve(), prefix="run-") as scratch:
            names = tasks.split(",") if root else task_names(folder)
            yield open_family(folder, base if root else "base", names), Path(scratch)
    finally:
        if root is None and not keep:
            remove(folder)
