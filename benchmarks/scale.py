"""How time grows with cores and size: pack, merge, add, unpack and load, each beside its bound.

    python benchmarks/scale.py --sizes 1e7,1e8 --threads 1,2
    python benchmarks/scale.py --sizes 4e9 --threads 1,2,4,8,16 --computed 7e9x20 --disk 2

The bound of pack, merge and add is reading their inputs into one buffer; of unpack a copy of the
model that is flushed; of load `load_file` with all pages read. `--computed` prints what a larger
family will take: the processor time per weight of the largest size that was measured, over so many
cores, or the time of the disk if that is longer.
"""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.common.cache import Cache
from benchmarks.common.experiment import make_family, task_names
from benchmarks.common.family import open_family
from benchmarks.common.measure import Side, alternate
from benchmarks.common.sides import HERE, Sides, remove

CORES = (8, 16, 64)


@dataclass(frozen=True)
class Point:
    """A side and its bound: seconds of the work alone, and of the processor for the whole command.

    `bytes`: what it reads and writes, of the families that are measured.
    """

    what: str
    params: float
    tasks: int
    threads: int
    seconds: float
    bound: float
    cpu: float
    peak: int
    bytes: float


@click.command()
@click.option("--sizes", default="1e7,1e8", show_default=True, help="Parameters of each model.")
@click.option("--threads", default="1,2", show_default=True)
@click.option("--tasks", type=int, default=8, show_default=True)
@click.option("--repeat", type=int, default=3, show_default=True)
@click.option("--computed", metavar="PARAMSxTASKS", help="Compute a larger family, 7e9x20.")
@click.option("--disk", type=float, default=2, show_default=True, help="GB/s, where computed.")
@click.option("--work", type=click.Path(path_type=Path), default=HERE / ".data", help="Scratch.")
@click.option("--json", "as_json", type=click.Path(path_type=Path), help="Write all figures here.")
def main(
    sizes: str,
    threads: str,
    tasks: int,
    repeat: int,
    computed: str | None,
    disk: float,
    work: Path,
    as_json: Path | None,
) -> None:
    """Measure every size with every number of threads, the bound in the same run."""
    work.mkdir(parents=True, exist_ok=True)
    points = list[Point]()
    with Console(stderr=True).status("starting") as status:
        for params in map(float, sizes.split(",")):
            root = work.resolve() / f"scale-{params:.0f}x{tasks}"
            make_family(root, params, tasks, "bf16", 2)
            for jobs in map(int, threads.split(",")):
                status.update(f"{params:.0e} parameters, {jobs} threads")
                points += _measured(root, params, tasks, jobs, repeat)
            remove(root)
    console = Console(width=100)
    console.print(_table(points))
    if computed:
        console.print(_computed(points, computed, disk))
    if as_json:
        as_json.write_text(json.dumps([vars(point) for point in points], indent=1))


def _measured(root: Path, params: float, tasks: int, jobs: int, repeat: int) -> list[Point]:
    family = open_family(root, "base", task_names(root))
    model = family.nbytes / (tasks + 1)
    with tempfile.TemporaryDirectory(dir=root.parent, prefix="run-") as scratch:
        cache = Cache("warm")
        sides = Sides(family, Path(scratch), jobs, cache)
        pack = sides.pack()
        pack.run()  # the others need the store
        pack.runs.clear()
        pairs: list[tuple[str, Side, Side, float]] = [
            ("pack", pack, sides.read(), 1.1 * family.nbytes),
            ("merge", sides.merge("sum", {}), sides.read(), family.nbytes + model),
            ("add", sides.add(), sides.read_for_add(), 2.1 * model),
            ("unpack", sides.unpack(cache), sides.copy(cache, sync=True), 2.1 * model),
            ("load", sides.load(), sides.load_file(), 1.1 * model),
        ]
        points = []
        for what, ours, bound, nbytes in pairs:
            alternate([ours, bound], repeat, lambda _: None)
            points.append(
                Point(
                    what, params, tasks, jobs,
                    seconds=ours.median(lambda run: run.work),
                    bound=bound.median(lambda run: run.work),
                    cpu=ours.median(lambda run: run.cpu),
                    peak=max(run.peak for run in ours.runs),
                    bytes=nbytes,
                )
            )  # fmt: skip
        return points


def _table(points: list[Point]) -> Table:
    table = Table("what", "parameters", "threads", "seconds", "bound", "times", "cpu s", "peak MiB")
    for p in points:
        numbers = (
            f"{p.seconds:.2f}",
            f"{p.bound:.2f}",
            f"{p.seconds / p.bound:.1f}",
            f"{p.cpu:.1f}",
        )
        table.add_row(p.what, f"{p.params:.0e}", str(p.threads), *numbers, str(p.peak >> 20))
    return table


def _computed(points: list[Point], family: str, disk: float) -> Table:
    """One thread's processor time, less that of the smallest size, grows with the weights."""
    params, tasks = (float(word) for word in family.split("x"))
    table = Table("what", *(f"{cores} cores" for cores in CORES), title=f"computed: {family}")
    for what in dict.fromkeys(point.what for point in points):
        own = [point for point in points if point.what == what]
        largest = max(own, key=lambda point: (point.params, -point.threads))
        smallest = min(own, key=lambda point: (point.params, point.threads))
        grown = largest.params - smallest.params
        per = (largest.cpu - smallest.cpu) / grown if grown else largest.cpu / largest.params
        models = (tasks + 1) / (largest.tasks + 1) if what in ("pack", "merge") else 1
        work, nbytes = params * per * models, largest.bytes / largest.params * params * models
        times = (max(work / cores, nbytes / (disk * 1e9)) for cores in CORES)
        table.add_row(what, *(f"{seconds:.0f} s" for seconds in times))
    return table


if __name__ == "__main__":
    main()
