"""`taskstore tune`"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from taskstore_cli.arguments import common
from taskstore_cli.arguments.command import Option, command
from taskstore_cli.arguments.dry_run import dry_run_option
from taskstore_cli.arguments.evaluator import Evaluator, evaluator_options
from taskstore_cli.arguments.family import make_options, named
from taskstore_cli.arguments.losses import overwrite_store_option
from taskstore_cli.arguments.method import method_options
from taskstore_cli.output.console import (
    Output,
    counted,
    number,
    plain_table,
    print_json,
    show,
    stdout,
)

if TYPE_CHECKING:
    from rich.table import Table

    from taskstore.packing.search_lambda import Tuning


@command()
@common.base_argument
@click.argument("finetunes", nargs=-1, required=True, metavar="[NAME=]FINETUNE...")
@common.output_option("STORE", "Folder or address to write.")
@evaluator_options()
@click.option(
    "--lambda",
    "grid",
    cls=Option,
    also=["--grid"],
    default="0.2,0.3,0.4,0.5,0.6",
    show_default=True,
    metavar="X,X,...",
    help="Mask thresholds to try.",
)
@method_options()
@common.jobs_option
@common.cache_option
@common.wait_option()
@common.says_options
@dry_run_option
@overwrite_store_option("a store that is there")
def tune(
    base: Path,
    finetunes: tuple[str, ...],
    target: Path,
    evaluator: Evaluator,
    grid: str,
    out: Output,
    **packing: Any,
) -> None:
    """Pack a family with the lambda per task that scores best.

    A command of yours scores. Use validation data: the score of a choice is no test score.
    Interrupted, the same command goes on where it was: scores are kept in --journal, by default
    STORE.tune.jsonl until it is done.

    \b
    taskstore tune llama billing=runs/17 legal=runs/22 -o family \\
        --eval 'python eval.py {model} {task} --split val'
    """
    from taskstore.locations import dry
    from taskstore.packing.search_lambda import tune as run
    from taskstore_cli.output.store import print_report

    lambdas = _grid(grid)
    most = len(set(lambdas)) * len(finetunes)
    dry.note(evaluations=most, also=[f"would run {counted(most, 'evaluation')}, at most"])
    with (
        evaluator.journal_beside(target, "tune") as journal,
        out.progress() as progress,
    ):
        found = run(
            base,
            named(finetunes),
            target,
            evaluator.bench(journal, silent=out.silent),
            grid=lambdas,
            options=make_options(**packing),
            scratch=evaluator.scratch,
            progress=progress,
        )
    if out.as_json:
        print_json(found.to_dict())
        return
    if not out.quiet:
        show(stdout(), "scores by lambda", _choices(found), first=True)
        click.echo()
    print_report(found.report, out)


def _grid(text: str) -> list[float]:
    from taskstore.errors import OptionError

    try:
        return [float(word) for word in text.split(",") if word.strip()]
    except ValueError:
        raise OptionError(f"--lambda {text!r} is not a list of numbers such as 0.2,0.3") from None


def _choices(found: Tuning) -> Table:
    from rich.markup import escape

    lambdas = sorted(next(iter(found.scores.values())))
    table = plain_table("task", *(f"{lam:g}" for lam in lambdas), words=["task"])
    table.add_column("lambda", justify="right", style="bold")
    for task, scores in found.scores.items():
        numbers = (number(scores[lam]) for lam in lambdas)
        table.add_row(escape(task), *numbers, f"{found.lambdas[task]:g}")
    return table
