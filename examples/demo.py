"""Pack the example family, rebuild it, and compare scores and sizes.

    python examples/demo.py [--out DIR] [--lambda auto] [--limit 300]

Runs the commands that a user would type, shows them, and ends with two tables: scores, and one live
model whose task is swapped in place. Exit status 1 where a rebuilt model scores less than 90 % of
its original.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from evaluate import score
from live import NUMBERS, show
from numerals import TASKS
from rich.console import Console
from rich.table import Table

FAMILY = Path(__file__).resolve().parent / "family"
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


def run(console: Console, out: Path, lam: str, limit: int) -> list[Row]:
    """Pack, show, unpack, score; prints the sizes and returns the scores."""
    store, rebuilt = out / "store", out / "rebuilt"
    originals = {task: FAMILY / task for task in TASKS}
    named = [f"{task}={shown(folder)}" for task, folder in originals.items()]
    again = ["--overwrite"] if store.exists() or rebuilt.exists() else []
    taskstore(
        console, "pack", shown(FAMILY / "base"), *named,
        "-o", shown(store), *([] if lam == "auto" else ["--lambda", lam]), *again,
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
        title=f"exact match on {limit} held-out numbers, lambda {lam}",
        caption=f"{len(rows) + 1} model folders {megabytes(folders_total)}, "
        f"one store {megabytes(packed)}: {folders_total / packed:.2f} times smaller",
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


def main() -> None:
    parser = argparse.ArgumentParser(description="Pack, rebuild and score the example family.")
    parser.add_argument("--out", type=Path, help="keep the store and the rebuilt models here")
    parser.add_argument("--lambda", dest="lam", default="auto")
    parser.add_argument("--limit", type=int, default=300, help="test items per task")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="taskstore-demo-") as scratch:
        out = args.out.resolve() if args.out else Path(scratch)
        out.mkdir(parents=True, exist_ok=True)
        console = Console()
        rows = run(console, out, args.lam, args.limit)
        console.print()
        show(console, out / "store", list(NUMBERS), "cpu")
    lost = [row.task for row in rows if row.kept < LEAST_KEPT]
    if lost:
        sys.exit(f"error: less than {LEAST_KEPT:.0%} of the score kept on {', '.join(lost)}")


if __name__ == "__main__":
    main()
