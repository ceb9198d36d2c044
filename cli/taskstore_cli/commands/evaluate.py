"""`taskstore eval`"""

from __future__ import annotations

from pathlib import Path

import click

from taskstore_cli.arguments import common
from taskstore_cli.arguments.command import command
from taskstore_cli.arguments.common import (
    StorePath,
    TaskName,
    base_from_option,
    says_options,
    wait_option,
)
from taskstore_cli.arguments.dry_run import dry_run_option
from taskstore_cli.arguments.family import named
from taskstore_cli.arguments.harness import Harness, harness_options
from taskstore_cli.output.console import Output, counted, print_json, stdout


@command("eval")
@click.argument("store", type=StorePath(), is_eager=True)
@click.argument("tasks", nargs=-1, type=TaskName())
@harness_options
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
@common.cluster_option
@wait_option(600)
@says_options
@dry_run_option
def evaluate(
    store: Path,
    tasks: tuple[str, ...],
    evaluator: Harness,
    originals: tuple[str, ...],
    base: bool,
    record: str | None,
    base_from: Path | None,
    out: Output,
) -> None:
    """Score the models of STORE: by a command, or lm-eval.

    All tasks are rebuilt and scored, or the TASKS that are named. A command of yours gets each in a
    folder; for --lm-eval one model is loaded, and swapped in place from task to task.

    \b
    taskstore eval family --eval 'python eval.py {model} {task}' \\
        --original billing=runs/17/final
    taskstore eval family --lm-eval gsm8k --limit 100 --apply-chat-template
    """
    from msgspec import to_builtins

    from taskstore.evaluation.bench import evaluate as run
    from taskstore.locations import dry
    from taskstore.packing import revise
    from taskstore_cli.output.store import show_scores

    if evaluator.template is not None:
        evaluator.command()  # a wrong one is refused before the store is read
    opened = common.opened(store, base_from)
    if record is not None:
        revise.check_record(opened, record)
    asked = sum(
        len(opened.tiers(task)) + base + (task in named(originals))
        for task in tasks or opened.tasks
    )
    dry.note(evaluations=asked, also=[f"would run {counted(asked, 'evaluation')}, at most"])
    with evaluator.scoring(tasks or opened.tasks, silent=out.silent) as bench:
        found = run(opened, bench, tasks=tasks or None, originals=named(originals), base=base)
    if out.as_json:
        print_json(found.to_dict())
    elif not out.quiet:
        records = {s.task: to_builtins(s.to_record()) for s in found.scores}
        show_scores(stdout(), records, "scores", first=True)
        if record is None:
            click.echo(
                "not kept: --record NAME writes scores into the store, for info and the card"
            )
    if record is not None:
        revise.record(opened, record, {s.task: s.to_record() for s in found.scores})
