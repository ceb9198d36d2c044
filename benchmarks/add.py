"""Add one task to stores of 4, 16 and 64 tasks, beside packing it alone; prints a table of ratios.

    python benchmarks/add.py --params 2e7

Time should not grow with the number of tasks, bytes should be the task's; ratios are those of
processor time, the least of all rounds. The fine-tunes from the
fifth on are links to the files of the first four, so a large store takes no more disk.
"""

from __future__ import annotations

import os
import resource
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path

import click
import msgspec
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import taskstore
from benchmarks.common.synthetic import task_names, write_family
from taskstore import AddOptions, PackOptions
from taskstore.store.card import seal

COUNTS, OWN = (4, 16, 64), 4
TIERS = ("mask", "rest", "exact")
BASE = "base"


@click.command()
@click.option("--params", type=float, default=2e7, show_default=True)
@click.option("--tiers", default=",".join(TIERS), show_default=True)
@click.option("--repeat", default=3, show_default=True)
@click.option("--work", type=click.Path(path_type=Path), default=Path("build"))
def main(params: float, tiers: str, repeat: int, work: Path) -> None:
    """Measure `taskstore add`; all sides of a tier in turn, in one run."""
    work.mkdir(parents=True, exist_ok=True)
    found = Table("tier", "tasks", "s", "cpu s", "of alone", "of 4 tasks", "bytes", "peak MiB")
    with tempfile.TemporaryDirectory(dir=work, prefix="add-") as folder:
        root = Path(folder)
        write_family(root / "family", params=params, tasks=OWN + 1, seed=0, dtype="bf16")
        for tier in tiers.split(","):
            for row in measured(root, tier, repeat):
                found.add_row(*row)
    Console(width=100).print(found)


def measured(root: Path, tier: str, repeat: int) -> list[list[str]]:
    """Return a row for packing alone, and one for each number of tasks."""
    family, *own, new = (root / "family" / name for name in (BASE, *task_names(OWN + 1)))
    small = root / f"{tier}-{OWN}"
    paths = {path.name: path for path in own}
    taskstore.pack(family, paths, small, PackOptions(tiers=tier))
    stores = {count: grown(small, root / f"{tier}-{count}", count) for count in COUNTS}
    options = PackOptions(tiers="rest" if tier == "mask" else tier, base="reference")
    sides: dict[int, Callable[[Path], object]] = {
        0: lambda target: taskstore.pack(family, {"new": new}, target, options)
    }
    how = AddOptions(max_error=None)
    sides |= {count: lambda path: taskstore.add(path, {"new": new}, how) for count in COUNTS}
    runs: dict[int, list[tuple[float, float, int, int]]] = {count: [] for count in sides}
    for _ in range(repeat):
        for count, side in sides.items():
            place = root / "here" / "store"
            if count:
                shutil.copytree(stores[count], place, copy_function=os.link)
                (place / "taskstore.json").unlink()  # a link would be a reader's lease, too
                shutil.copyfile(stores[count] / "taskstore.json", place / "taskstore.json")
            else:
                place.parent.mkdir(exist_ok=True)
            before = {p.stat().st_ino for p in place.rglob("*")} if count else set()
            seconds, cpu, peak = alone(side, place)
            fresh = [p for p in place.rglob("*") if p.is_file() and p.stat().st_ino not in before]
            data = [p for p in fresh if p.suffix == ".safetensors"]
            runs[count].append((seconds, cpu, sum(p.stat().st_size for p in data), peak))
            shutil.rmtree(place.parent)
    took = {c: min(cpu for _, cpu, _, _ in runs[c]) for c in runs}
    return [
        [
            tier,
            str(count) if count else "alone",
            f"{statistics.median(seconds for seconds, _, _, _ in runs[count]):.2f}",
            f"{took[count]:.2f}",
            f"{took[count] / took[0]:.2f}",
            f"{took[count] / took[OWN]:.2f}" if count else "-",
            f"{runs[count][0][2]:,}",
            f"{max(peak for _, _, _, peak in runs[count]) >> 10}",
        ]
        for count in runs
    ]


def grown(small: Path, target: Path, count: int) -> Path:
    """Return a store with `count` tasks, whose files are links to those of a smaller one."""
    if target == small:
        return small
    shutil.copytree(small, target, copy_function=os.link)
    manifest = taskstore.open(small).manifest
    tasks, files = dict(manifest.tasks), dict(manifest.files)
    names = list(tasks)
    for number in range(len(names), count):
        name, of = f"task{number:02d}", names[number % len(names)]
        shutil.copytree(small / "tasks" / of, target / "tasks" / name, copy_function=os.link)
        tasks[name] = msgspec.structs.replace(tasks[of], parent=None)
        start = f"tasks/{of}/"
        files |= {
            path.replace(start, f"tasks/{name}/"): file
            for path, file in manifest.files.items()
            if path.startswith(start)
        }
    for name in ("taskstore.json", "README.md"):
        (target / name).unlink()
    done = msgspec.structs.replace(manifest, tasks=tasks, files=files, vectors=None)
    seal(target, done)
    return target


def alone(side: Callable[[Path], object], place: Path) -> tuple[float, float, int]:
    """Return seconds and processor seconds of a call in a process of its own, its peak in KiB."""
    context = get_context("fork")
    ours, theirs = context.Pipe()

    def call() -> None:
        began, before = time.perf_counter(), time.process_time()
        side(place)
        took = time.perf_counter() - began, time.process_time() - before
        theirs.send((*took, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss))

    process = context.Process(target=call)
    process.start()
    seconds, cpu, peak = ours.recv()
    process.join()
    return float(seconds), float(cpu), int(peak)


if __name__ == "__main__":
    main()
