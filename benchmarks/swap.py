"""Swap the tasks of a live model, beside what one would do otherwise; a table for each size.

    python benchmarks/swap.py --params 1e7,1e8,1e9 --tasks 8
    python benchmarks/swap.py --family DIR --base base --tasks billing,legal,support

See benchmarks/README.md for what is measured and how.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Generator
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.status import Status

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.common import facts, table
from benchmarks.common.family import Family, open_family
from benchmarks.common.measure import SideFailed
from benchmarks.common.sides import HERE
from benchmarks.swapping.lines import COPY_GOAL, of_family, of_kernels, over_sizes
from benchmarks.swapping.runs import Runs, Synthetic, caption

WIDTH = 110  # of the tables where the output is no terminal


@click.command()
@click.option("--params", default="1e7,1e8", show_default=True, help="Of each model; a size each.")
@click.option("--tasks", default="8", show_default=True, help="How many, or NAME,NAME,...")
@click.option(
    "--dtype", type=click.Choice(["bf16", "f16", "f32"]), default="bf16", show_default=True
)
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda or cuda:N.")
@click.option(
    "--masks",
    type=click.Choice(["host", "device"]),
    default="device",
    show_default=True,
    help="Where a GPU's masks are.",
)
@click.option("--family", "root", type=click.Path(path_type=Path), help="Real models, not made.")
@click.option("--base", default="base", show_default=True, help="Name of the base below --family.")
@click.option("--work", type=click.Path(path_type=Path), default=HERE / ".data", help="Scratch.")
@click.option("--repeat", type=int, help="Runs of each side.  [default: 5, or 3 for big models]")
@click.option("--json", "as_json", type=click.Path(path_type=Path), help="Write all figures here.")
@click.option("--keep", is_flag=True, help="Leave synthetic families in --work for the next run.")
def main(
    params: str,
    tasks: str,
    dtype: str,
    device: str,
    masks: str,
    root: Path | None,
    base: str,
    work: Path,
    repeat: int | None,
    as_json: Path | None,
    keep: bool,
) -> None:
    """Measure swapping; every line of a table is a ratio of two sides."""
    if root is None and not tasks.isdecimal():
        raise click.BadParameter("names need --family; else give a number", param_hint="--tasks")
    if device.partition(":")[0] not in COPY_GOAL:
        raise click.BadParameter(f"{device} is no cpu or cuda", param_hint="--device")
    try:
        sizes = [float(size) for size in params.split(",")]
    except ValueError:
        raise click.BadParameter(f"{params} is no list of sizes", param_hint="--params") from None
    jobs = len(os.sched_getaffinity(0))
    work.mkdir(parents=True, exist_ok=True)
    try:
        with (
            Console(stderr=True).status("starting") as status,
            tempfile.TemporaryDirectory(dir=work.resolve(), prefix="run-") as scratch,
        ):
            if root:
                real = open_family(root.resolve(), base, tasks.split(","))
                families, dtype = (one for one in [real]), real.dtype
            else:
                made = Synthetic(work.resolve(), int(tasks), dtype, jobs, keep, status.update)
                families = made.families(sizes)
            runs = Runs(Path(scratch), dtype, device, masks, jobs, repeat, status.update)
            found = _measure(runs, families, status)
    except (SideFailed, OSError, ValueError, subprocess.SubprocessError) as error:
        raise click.ClickException(str(error)) from error
    if as_json:
        as_json.write_text(json.dumps(found, indent=2) + "\n")


def _measure(runs: Runs, families: Generator[Family], status: Status) -> dict[str, Any]:
    """Print a table for each family as it is done, then one over all; returns every figure."""
    console = Console() if sys.stdout.isatty() else Console(width=WIDTH)
    runs.prepare()
    kernels = runs.kernels()
    extra = of_kernels(kernels)  # they do not depend on the size: once, in the first table
    measured, sizes = [], []
    with closing(families):
        for family in families:
            figures, about = runs.family(family)
            lines, extra = of_family(figures) + extra, []
            status.stop()  # it would draw over the table
            console.print(table.make(lines, facts.title(about), caption(about)))
            status.start()
            measured.append(figures)
            as_found = [asdict(line) for line in lines]
            sizes.append({"facts": about, "lines": as_found, "found": figures.found})
    status.stop()
    console.print(over_sizes(measured))
    return {"sizes": sizes, "kernels": kernels.found}


if __name__ == "__main__":
    main()
