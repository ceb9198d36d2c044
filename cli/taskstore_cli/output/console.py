"""What all commands print with: progress on stderr, sizes in words, JSON on stdout."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import click

from taskstore.progress import EVERY, Remaining, duration
from taskstore_cli.output.options import in_options

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table
    from rich.text import Text

    from taskstore.progress import Function, Progress

SCHEMA = 1  # the version of schema.json, in every output
SAID = ("advice", "notes", "warnings")  # members of outputs, for people


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


def say(console: Console, text: str | Text) -> None:
    """Print a paragraph: wrapped in a terminal, one line elsewhere."""
    console.print(text, soft_wrap=not console.is_terminal)


def show(console: Console, title: str, *below: RenderableType, first: bool = False) -> None:
    """Print a title and what stands below it, after a blank line, unless it is the first."""
    from rich.text import Text

    if not first:
        console.print()
    say(console, Text(title, style="bold"))
    for part in below:
        console.print(part)


@contextmanager
def paged() -> Iterator[Console]:
    """A console whose output goes through the pager where it is higher than the terminal."""
    console = stdout()
    if not console.is_terminal:
        yield console
        return
    with console.capture() as found:
        yield console
    text = found.get()
    if text.count("\n") < console.height:
        click.echo(text, nl=False)
    else:
        os.environ.setdefault("LESS", "FRX")  # colours, and the text stays in the terminal
        click.echo_via_pager(text, color=True)


def plain_table(*columns: str, words: Collection[str] = ("",), **look: Any) -> Table:
    """A table without lines; columns of `words` stand at the left, numbers at the right."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, **look)
    for column in columns:
        justify: Literal["left", "right"] = "left" if column in words else "right"
        table.add_column(column, justify=justify, overflow="fold")
    return table


def print_json(document: Mapping[str, Any], kind: str | None = None) -> None:
    """Print one object; `kind` is the name of its schema, the command's by default."""
    named = versioned(document, kind or click.get_current_context().command.name)
    said = {member: _in_options(named[member]) for member in SAID if member in named}
    click.echo(json.dumps(named | said, indent=2, ensure_ascii=False))


def _in_options(said: Any) -> Any:
    """The same of a sentence, or of a list or dict of them."""
    if isinstance(said, Mapping):
        return {what: in_options(why) for what, why in said.items()}
    return in_options(said) if isinstance(said, str) else [in_options(one) for one in said]


def versioned(document: Mapping[str, Any], kind: str | None) -> dict[str, Any]:
    """The object with what says which part of schema.json describes it."""
    return {"schema": f"{kind}/{SCHEMA}", **document}


@dataclass(frozen=True)
class Output:
    """What --json and --quiet ask for."""

    as_json: bool
    quiet: bool

    @property
    def silent(self) -> bool:
        """Whether nothing but a result, or a warning, is printed."""
        return self.as_json or self.quiet

    def progress(self, *, examples: bool = False) -> AbstractContextManager[Function]:
        return progress_bar(self.silent, examples=examples)


@contextmanager
def progress_bar(quiet: bool, *, examples: bool = False) -> Iterator[Function]:
    """A callback that draws a bar on stderr, or where that is no terminal, writes lines there.

    It counts bytes, or examples; `quiet`: neither.
    """
    if quiet or not sys.stderr.isatty():
        yield (lambda _: None) if quiet else _lines()
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        MofNCompleteColumn,
        TextColumn,
        TransferSpeedColumn,
    )
    from rich.progress import (
        Progress as Bar,
    )

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=12),
        *([MofNCompleteColumn()] if examples else [DownloadColumn(), TransferSpeedColumn()]),
        TextColumn("{task.fields[left]}"),
    )
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task, remaining = bar.add_task("starting", total=None, left=""), Remaining()

        def show(progress: Progress) -> None:
            left = remaining.after(time.monotonic(), progress)
            item = progress.item if len(progress.item) <= 20 else "..." + progress.item[-17:]
            bar.update(
                task,
                total=progress.total,
                completed=progress.done,
                description=f"{progress.stage} {item:<20}",
                left="" if left is None else f"{duration(left)} left",
            )

        yield show


def _lines() -> Function:
    """Write a line every ten seconds, for logs: what is done, and about how long the rest takes."""
    said, remaining = time.monotonic(), Remaining()

    def show(progress: Progress) -> None:
        nonlocal said
        now = time.monotonic()
        left = remaining.after(now, progress)
        if now - said >= EVERY:
            said = now
            click.echo(progress_line(progress, left), err=True)

    return show


def progress_line(progress: Progress, seconds: float | None) -> str:
    """What is done, and what is left: "coding a: 1 GB of 4 GB (25 %), about 3 min left"."""
    done, total = progress.done, progress.total
    words = f"{size(done)} of {size(total)}"
    if progress.unit != "B":
        words = f"{done:,} of {total:,} {progress.unit}"
    share = done / max(1, total)
    left = "" if seconds is None else f", about {duration(seconds)} left"
    return f"{progress.stage} {progress.item}".strip() + f": {words} ({share:.0%}){left}"


def number(value: float | None) -> str:
    """A score in a table; nothing where there is none."""
    return "" if value is None else f"{value:.4g}"
