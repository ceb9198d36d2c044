"""What the commands share: progress on stderr, sizes in words, JSON on stdout."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from rich.console import Console

    from taskstore.progress import Callback, Progress

F = TypeVar("F", bound=Callable[..., Any])


def size(count: float) -> str:
    """Bytes as a person writes them, powers of ten."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 1000:
            return f"{count:,.0f} {unit}" if unit == "B" else f"{count:,.1f} {unit}"
        count /= 1000
    return f"{count:,.2f} TB"


def stdout() -> Console:
    """A rich console that does not cut lines when its output goes to a file."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 120, highlight=False)


def print_json(document: Any) -> None:
    click.echo(json.dumps(document, indent=2, ensure_ascii=False))


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
        TextColumn("{task.description}"),
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


class StorePath(click.Path):
    """A store folder; completes folders."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)


class TaskName(click.ParamType[str]):
    """A task; completes the names in the store that the command line names."""

    name = "task"

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[click.shell_completion.CompletionItem]:
        from click.shell_completion import CompletionItem

        import taskstore

        try:
            tasks = taskstore.open(ctx.params["store"]).tasks
        except (taskstore.TaskstoreError, KeyError, TypeError, OSError):
            return []
        return [CompletionItem(name) for name in tasks if name.startswith(incomplete)]


def output_option(metavar: str, help: str = "Folder to write.") -> Callable[[F], F]:
    """-o, which a command cannot do without."""
    return click.option(
        "-o",
        "--output",
        "target",
        required=True,
        type=click.Path(path_type=Path),
        metavar=metavar,
        help=help,
    )


quiet_option = click.option("-q", "--quiet", is_flag=True, help="No progress, no tables.")
json_option = click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
jobs_option = click.option(
    "-j", "--jobs", type=click.IntRange(min=1), help="Threads.  [default: the cores there are]"
)
level_option = click.option(
    "--level",
    type=click.Choice(["speed", "archive"]),
    default="speed",
    show_default=True,
    help="archive: smaller masks, multi-task model and exact tensors, slower to code and decode.",
)
tier_option = click.option(
    "--tier",
    type=click.Choice(["mask", "rest", "exact"]),
    help="Rebuild with the tiers up to this one.  [default: the best there is]",
)
base_from_option = click.option(
    "--base-from",
    type=click.Path(path_type=Path),
    help="Folder of the base, for a store that only references it.",
)
