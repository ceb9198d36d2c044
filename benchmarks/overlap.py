"""Counting a store's masks: taskstore.analysis.overlap beside plain numpy booleans, on one core.

    python benchmarks/overlap.py --params 1e8 --tasks 8

The store is synthetic. Both sides read the same files and decode the same chunks; decoding alone
is timed as well, and what is left without it stands beside. Every side ends with the same counts,
or the benchmark ends with an error. Seconds are of the clock; rates, ratios and "per core" are of
the processor's time, which other work on the machine disturbs less.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import click
import numpy as np
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import taskstore
from benchmarks.common.experiment import make_family, task_names
from benchmarks.common.sides import remove
from benchmarks.common.table import size
from taskstore.analysis.overlap.chunks import Masked, chunks_of, masked_tensors, open_tensors
from taskstore.analysis.overlap.counting import Sums, count, workers
from taskstore.progress import Meter, silent

Run = Callable[[taskstore.Store, Masked, int], Sums | None]


def ours(store: taskstore.Store, masked: Masked, jobs: int) -> Sums:
    return count(store, masked, workers(jobs), Meter(silent, 1))


def decoding(store: taskstore.Store, masked: Masked, jobs: int) -> None:
    """What every side does first; in one thread."""
    with open_tensors(store, masked, workers(jobs)) as opened:
        for chunk in chunks_of(store, masked):
            opened(chunk.name).decode(chunk.k)


def plain(store: taskstore.Store, masked: Masked, jobs: int) -> Sums:
    """The same counts with a byte for every bit; in one thread."""
    sums = Sums.of(masked)
    with open_tensors(store, masked, workers(jobs)) as opened:
        for chunk in chunks_of(store, masked):
            live_P, masks = opened(chunk.name).decode(chunk.k)
            live_N, *rows = [
                np.unpackbits(packed, bitorder="little").view(np.bool_)
                for packed in (live_P, *masks)
            ]
            both_SS = np.zeros((len(rows), len(rows)), np.int64)
            for i, one_N in enumerate(rows):
                for j in range(i + 1):
                    both_SS[i, j] = both_SS[j, i] = (one_N & rows[j]).sum()
            used_N = np.array(rows).sum(axis=0, dtype=np.uint8)[live_N]
            sums.add(chunk.name, both_SS, np.bincount(used_N, minlength=len(rows) + 1))
    return sums


SIDES: dict[str, Run] = {"taskstore": ours, "numpy booleans": plain, "decoding alone": decoding}


@click.command()
@click.option("--params", type=float, default=1e8, show_default=True, help="Of each model.")
@click.option("--tasks", type=int, default=8, show_default=True)
@click.option("--jobs", type=int, default=1, show_default=True, help="Threads of taskstore.")
@click.option("--repeat", type=int, default=3, show_default=True, help="Runs of each side.")
@click.option(
    "--work",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Scratch.  [default: the system's]",
)
def main(params: float, tasks: int, jobs: int, repeat: int, work: Path | None) -> None:
    """Print seconds, bytes and weights per second of counting a store's masks."""
    with (
        tempfile.TemporaryDirectory(dir=work, prefix="overlap-") as scratch,
        Console(stderr=True).status("starting") as status,
    ):
        family, path = Path(scratch) / "family", Path(scratch) / "store"
        status.update("writing the family")
        make_family(family, params, tasks, "bf16", 2)
        models = {name: family / name for name in task_names(family)}
        status.update("packing")
        taskstore.pack(family / "base", models, path, taskstore.PackOptions(tiers="mask"))
        remove(family)
        store = taskstore.open(path)
        print_table(store, jobs, in_turn(store, jobs, repeat, status.update))


@dataclass
class Times:
    """Of every run of one side."""

    clock: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)


def in_turn(
    store: taskstore.Store, jobs: int, repeat: int, report: Callable[[str], None]
) -> dict[str, Times]:
    """Run all sides; every other round goes backwards."""
    masked, times = masked_tensors(store), {name: Times() for name in SIDES}
    decoding(store, masked, jobs)  # compiles, and reads the files into the page cache
    for i in range(repeat):
        found = dict[str, Sums | None]()
        for name in SIDES if i % 2 == 0 else reversed(SIDES):
            report(f"{name}, {i + 1} of {repeat}")
            began, busy = time.perf_counter(), time.process_time()
            found[name] = SIDES[name](store, masked, jobs)
            times[name].clock.append(time.perf_counter() - began)
            times[name].processor.append(time.process_time() - busy)
        check_same(found["taskstore"], found["numpy booleans"])
    return times


def check_same(one: Sums | None, other: Sums | None) -> None:
    """Raise ClickException unless two sides have counted the same."""
    assert one is not None and other is not None
    same = (one.both_TT == other.both_TT).all() and (one.own_TT == other.own_TT).all()
    if not same or any((one.usage[n] != other.usage[n]).any() for n in one.usage):
        raise click.ClickException("the sides have not counted the same")


def print_table(store: taskstore.Store, jobs: int, times: dict[str, Times]) -> None:
    summary = store.summary()
    weights, tasks = summary.parameters, len(summary.tasks)
    packed = (tasks + 1) * weights / 8  # the masks, and where the models differ
    took = {side: statistics.median(of.processor) for side, of in times.items()}
    ours, decoded = took["taskstore"], took["decoding alone"]
    table = Table(
        title=f"{weights / 1e6:,.0f}M weights, {tasks} tasks, {jobs} thread(s) of taskstore",
        title_justify="left",
        caption="medians, page cache warm; bytes are packed bits: masks, and where W1 is not W0",
        caption_justify="left",
    )
    columns = ("side", "seconds", "processor", "bytes/s", "weights/s per core", "time")
    for column in (*columns, "less decoding"):
        table.add_column(column, justify="left" if column == "side" else "right")
    for side, seconds in took.items():
        counting = seconds - decoded
        table.add_row(
            side,
            f"{statistics.median(times[side].clock):.2f}",
            f"{seconds:.2f} s",
            size(packed / seconds),
            f"{weights / seconds / 1e6:,.0f}M",
            f"{seconds / ours:.2f}x",
            f"{counting:.2f} s, {counting / (ours - decoded):.2f}x" if counting > 0 else "",
        )
    Console(width=None if sys.stdout.isatty() else 100).print(table)


if __name__ == "__main__":
    main()
