"""What all commands print with: progress on stderr, sizes in words, JSON on stdout."""

from __future__ import annotations

import json
import sys
from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from taskstore.progress import Callback, Progress


def size(count: float) -> str:
    """Bytes as a person writes them, powers of ten."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 1000:
            return f"{count:,.0f} {unit}" if unit == "B" else f"{count:,.1f} {unit}"
        count /= 1000
    return f"{count:,.2f} TB"


def counted(count: int, what: str) -> str:
    """A number of things: "1 file", "2 files"."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def stdout() -> Console:
    """A rich console that does not cut lines when its output goes to a file."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 120, highlight=False)


def plain_table(*columns: str, words: Collection[str] = ("",), **look: Any) -> Table:
    """A table without lines; columns of `words` stand at the left, numbers at the right."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, **look)
    for column in columns:
        table.add_column(column, justify="left" if column in words else "right")
    return table


def print_json(document: Any) -> None:
    click.echo(json.dumps(document, indent=2, ensure_ascii=False))


@dataclass(frozen=True)
class Output:
    """What --json and --quiet ask for."""

    as_json: bool
    quiet: bool

    @property
    def silent(self) -> bool:
        """Whether nothing but a result, or a warning, is printed."""
        return self.as_json or self.quiet

    def progress(self, *, examples: bool = False) -> AbstractContextManager[Callback]:
        return progress_bar(self.silent, examples=examples)


@contextmanager
def progress_bar(quiet: bool, *, examples: bool = False) -> Iterator[Callback]:
    """A callback that draws a bar on stderr; silent when told so or when stderr is no terminal.

    It counts bytes, or examples.
    """
    if quiet or not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        MofNCompleteColumn,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )
    from rich.progress import (
        Progress as Bar,
    )

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=12),
        *([MofNCompleteColumn()] if examples else [DownloadColumn(), TransferSpeedColumn()]),
        TimeRemainingColumn(),
    )
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("starting", total=None)

        def show(progress: Progress) -> None:
            item = progress.item if len(progress.item) <= 20 else "..." + progress.item[-17:]
            bar.update(
                task,
                total=progress.total,
                completed=progress.done,
                description=f"{progress.stage} {item:<20}",
            )

        yield show


def number(value: float | None) -> str:
    """A score in a table; nothing where there is none."""
    return "" if value is None else f"{value:.4g}"
