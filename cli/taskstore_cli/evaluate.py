"""`taskstore eval`"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from taskstore_cli.console import (
    StorePath,
    base_from_option,
    json_option,
    print_json,
    quiet_option,
    stdout,
)
from taskstore_cli.evaluator import evaluator_options, make_bench, number
from taskstore_cli.pack import named

if TYPE_CHECKING:
    from rich.table import Table

    from taskstore.evaluation import Evaluation


@click.command("eval")
@click.argument("store", type=StorePath())
@click.argument("tasks", nargs=-1)
@evaluator_options
@click.option(
    "--original",
    "originals",
    multiple=True,
    metavar="[NAME=]MODEL",
    help="A fine-tune that was packed, to compare with; repeatable.",
)
@click.option("--base", is_flag=True, help="Score the base on every task, too.")
@click.option(
    "--record",
    metavar="NAME",
    help="Write the scores into the store under this name; info and the model card show them.",
)
@base_from_option
@json_option
@quiet_option
def evaluate(
    store: Path,
    tasks: tuple[str, ...],
    template: str,
    key: str,
    timeout: float,
    journal: Path | None,
    scratch: Path | None,
    originals: tuple[str, ...],
    base: bool,
    record: str | None,
    base_from: Path | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Score the rebuilt models of STORE, all TASKS or some, with a command of yours.

    \b
    taskstore eval family --eval 'python eval.py {model} {task}' --original billing=runs/17/final
    """
    import taskstore
    from taskstore import revising
    from taskstore.evaluation import evaluate as run

    opened = taskstore.open(store, base=base_from)
    if record is not None:
        revising.check_record(opened, record)
    bench = make_bench(template, key, timeout, journal, scratch, quiet or as_json)
    found = run(opened, bench, tasks=tasks or None, originals=named(originals), base=base)
    if record is not None:
        revising.record(opened, record, {s.task: s.to_record() for s in found.scores})
    if as_json:
        print_json(found.to_dict())
    elif not quiet:
        stdout().print(_scores(found))


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}"


def _scores(found: Evaluation) -> Table:
    from rich.markup import escape
    from rich.table import Table

    kept = found.kept
    caption = (
        f"kept {sum(kept) / len(kept):.1%} on average, {min(kept):.1%} worst" if kept else None
    )
    table = Table(box=None, pad_edge=False, caption=caption, caption_justify="left")
    for column in ("task", "base", "original", "rebuilt", "kept"):
        table.add_column(column, justify="left" if column == "task" else "right")
    for s in found.scores:
        numbers = (number(s.base), number(s.original), number(s.rebuilt), _share(s.kept))
        table.add_row(escape(s.task), *numbers)
    return table
