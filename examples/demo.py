"""Pack the example family, rebuild it, and compare scores and sizes.

    python examples/demo.py [--tiers mask] [--out DIR] [--lambda auto] [--limit 300]

Runs the commands that a user would type, shows them, and ends with two tables: the scores, and one
live model whose task is swapped in place, beside the originals. The last lines say what the tables
mean. Exit status 1 where a rebuilt model scores less than 90 % of its original.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from evaluate import score
from live import FAMILY, NUMBERS, Answer, show
from numerals import TASKS
from rich.console import Console
from rich.table import Table

LEAST_KEPT = 0.9


@dataclass(frozen=True)
class Row:
    """Scores on one task."""

    task: str
    base: float
    original: float
    rebuilt: float

    @property
    def kept(self) -> float:
        return self.rebuilt / self.original if self.original else 0.0


def shown(path: Path) -> str:
    """The path as one would type it here."""
    try:
        return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)
    except FileNotFoundError:
        return str(path)


def taskstore(console: Console, *words: str) -> None:
    """Show one command and run it; a failure ends the demo with the command's own status."""
    console.print()
    console.print(
        f"$ taskstore {shlex.join(words)}", style="bold cyan", markup=False, soft_wrap=True
    )
    done = subprocess.run([sys.executable, "-m", "taskstore_cli", *words], check=False)
    if done.returncode:
        sys.exit(done.returncode)


def folder_bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def megabytes(size: int) -> str:
    return f"{size / 1e6:.2f} MB"


def run(console: Console, out: Path, tiers: str, lam: str, limit: int) -> list[Row]:
    """Pack, verify, unpack and score; print the sizes and return the scores."""
    store, rebuilt = out / "store", out / "rebuilt"
    originals = {task: FAMILY / task for task in TASKS}
    named = [f"{task}={shown(folder)}" for task, folder in originals.items()]
    again = ["--overwrite"] if store.exists() or rebuilt.exists() else []
    taskstore(
        console, "pack", shown(FAMILY / "base"), *named,
        "-o", shown(store), *([] if tiers == "auto" else ["--tiers", tiers]),
        *([] if lam == "auto" else ["--lambda", lam]), *again,
    )  # fmt: skip
    taskstore(console, "verify", shown(store), "--deep")
    taskstore(console, "unpack", shown(store), "--all", "-o", shown(rebuilt), *again)
    rows = []
    with console.status(f"scoring on {limit} held-out numbers"):
        for task, original in originals.items():
            folders = (FAMILY / "base", original, rebuilt / task)
            rows.append(Row(task, *(score(folder, task, limit=limit) for folder in folders)))
    packed = folder_bytes(store)
    folders_total = sum(map(folder_bytes, [FAMILY / "base", *originals.values()]))
    table = Table(
        title=f"{limit} held-out numbers: share written right",
        caption=f"{len(rows) + 1} model folders: {megabytes(folders_total)}\n"
        f"one store: {megabytes(packed)}, {folders_total / packed:.2f} times smaller",
    )
    for column in ("task", "base", "original", "rebuilt", "kept"):
        table.add_column(column, justify="left" if column == "task" else "right")
    for row in rows:
        values = (row.base, row.original, row.rebuilt, row.kept)
        style = "" if row.kept >= LEAST_KEPT else "red"
        table.add_row(row.task, *(f"{value:.1%}" for value in values), style=style)
    console.print()
    console.print(table)
    return rows


def meaning(tiers: str, rows: list[Row], answers: list[Answer]) -> list[str]:
    """What the tables say, wrong answers included, and which tier keeps more."""
    kept = sum(row.kept for row in rows) / len(rows)
    lines = [f"The rebuilt models keep {kept:.1%} of their originals' scores on average."]
    by_verdict = {
        verdict: ", ".join(f"{one.task} {one.number}" for one in answers if one.verdict == verdict)
        for verdict in ("same mistake", "differs")
    }
    if named := by_verdict["same mistake"]:
        lines.append(f"Same mistake ({named}): the fine-tune itself is wrong here.")
    if named := by_verdict["differs"]:
        lines.append(f"Differs ({named}): packing changed the answer.")
    if "exact" in tiers:
        return [*lines, "Tier exact: every weight is the original's, bit for bit."]
    lines.append(f"Tiers {tiers}: a rebuilt model is an approximation of its fine-tune.")
    if tiers == "auto":
        lines.append('"make demo TIERS=auto:B" takes fewer bytes, TIERS=mask has masks.')
    elif "mask" in tiers:
        lines.append('"make demo TIERS=auto" keeps more of it in fewer bytes.')
    return [*lines, '"make demo TIERS=exact" keeps every bit.']


def main() -> None:
    parser = argparse.ArgumentParser(description="Pack, rebuild and score the example family.")
    parser.add_argument("--out", type=Path, help="keep the store and the rebuilt models here")
    parser.add_argument("--tiers", default="auto", help="what is kept of each task, as of pack")
    parser.add_argument("--lambda", dest="lam", default="auto")
    parser.add_argument("--limit", type=int, default=300, help="test items per task")
    args = parser.parse_args()
    torch.set_num_threads(1)  # so small a model gains nothing from a second one
    console, began = Console(), time.monotonic()
    console.print(
        "The demo packs a base and four fine-tunes, rebuilds and scores them,\n"
        "and swaps a live model between them. It takes 10 to 20 seconds on two cores.",
        highlight=False,
    )
    with tempfile.TemporaryDirectory(prefix="taskstore-demo-") as scratch:
        out = args.out.resolve() if args.out else Path(scratch)
        out.mkdir(parents=True, exist_ok=True)
        rows = run(console, out, args.tiers, args.lam, args.limit)
        console.print()
        answers = show(console, out / "store", NUMBERS, "cpu")
    console.print()
    for line in meaning(args.tiers, rows, answers):
        console.print(line, highlight=False, markup=False)
    if args.out:
        command = shown(Path(sys.executable).parent / "taskstore")
        console.print(f"The store is kept: {command} info {shown(out / 'store')}", highlight=False)
    console.print(f"{time.monotonic() - began:.0f} seconds in all", highlight=False)
    lost = [row.task for row in rows if row.kept < LEAST_KEPT]
    if lost:
        sys.exit(f"error: less than {LEAST_KEPT:.0%} of the score kept on {', '.join(lost)}")


if __name__ == "__main__":
    main()
