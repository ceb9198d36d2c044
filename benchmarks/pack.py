"""Pack and unpack a family, beside what one would use otherwise; prints one table of ratios.

    python benchmarks/pack.py --params 2e7 --tasks 8
    python benchmarks/pack.py --family DIR --base base --tasks billing,legal,support

See benchmarks/README.md for what is measured and how.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

import click
from rich.console import Console

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.common import envs, facts, table
from benchmarks.common.cache import Cache
from benchmarks.common.experiment import TOOLS, Experiment, make_family, task_names
from benchmarks.common.family import open_family
from benchmarks.common.given import family_options
from benchmarks.common.measure import SideFailed
from benchmarks.common.sides import Sides, remove

BIG = 1e8  # parameters from which everything is measured once, unless --repeat says otherwise
WIDTH = 110  # of the table where the output is no terminal


@click.command()
@family_options(params=2e7, tasks=8)
@click.option("--skip", default="", help=f"Leave out some of {','.join(TOOLS)}.")
@click.option("--repeat", type=int, help="Runs of each side.  [default: 3, or 1 for big models]")
@click.option("--json", "as_json", type=click.Path(path_type=Path), help="Write all figures here.")
def main(
    params: float,
    tasks: str,
    dtype: str,
    root: Path | None,
    base: str,
    jobs: int,
    work: Path,
    skip: str,
    repeat: int | None,
    as_json: Path | None,
    keep: bool,
) -> None:
    """Measure packing and unpacking a family; every line of the table is a ratio of two sides."""
    left_out = set(filter(None, skip.split(",")))
    if left_out - set(TOOLS):
        raise click.BadParameter(f"{skip} is not some of {','.join(TOOLS)}", param_hint="--skip")
    if root is None and not tasks.isdecimal():
        raise click.BadParameter("names need --family; else give a number", param_hint="--tasks")
    tools = [tool for tool in TOOLS if tool not in left_out]
    folder = (root or work / f"family-{params:.0f}x{tasks}-{dtype}").resolve()
    work.mkdir(parents=True, exist_ok=True)
    try:
        with (
            Console(stderr=True).status("starting") as status,
            tempfile.TemporaryDirectory(dir=work.resolve(), prefix="run-") as scratch,
        ):
            for tool in ("mergekit", "zipnn"):
                if tool in tools:
                    status.update(f"installing {tool}")
                    envs.ensure(tool)
            if root is None:
                status.update(f"writing {folder.name}")
                make_family(folder, params, int(tasks), dtype, jobs)
            names = tasks.split(",") if root else task_names(folder)
            family = open_family(folder, base if root else "base", names)
            sides = Sides(family, Path(scratch), jobs, Cache.fitting(family.nbytes))
            times = repeat or (1 if family.parameters >= BIG else 3)
            experiment = Experiment(sides, tools, times, status.update)
            experiment.run()
            about = facts.of(experiment)
    except (envs.ToolError, SideFailed, OSError, ValueError, subprocess.SubprocessError) as error:
        raise click.ClickException(str(error)) from error
    finally:
        if root is None and not keep:
            remove(folder)
    console = Console() if sys.stdout.isatty() else Console(width=WIDTH)
    console.print(table.make(experiment.lines.found, facts.title(about), facts.caption(about)))
    if as_json:
        found = {
            "facts": about,
            "lines": [asdict(line) for line in experiment.lines.found],
            "sides": [side.to_dict() for side in experiment.measured],
        }
        as_json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
