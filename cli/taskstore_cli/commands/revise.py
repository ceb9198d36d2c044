"""`taskstore add`, `replace`, `remove`, `retier`: change the tasks or the tiers of a store."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import click

from taskstore_cli.arguments import common
from taskstore_cli.arguments.command import command
from taskstore_cli.arguments.dry_run import dry_run_option
from taskstore_cli.arguments.family import (
    make_options,
    named,
    parent_options,
    rest_bits_option,
)
from taskstore_cli.arguments.joining import add_options, joining_options
from taskstore_cli.arguments.losses import (
    ask,
    ask_for_originals,
    described,
    note_losses,
    overwrite_store_option,
    yes_option,
)
from taskstore_cli.arguments.method import method_options, statistics_option
from taskstore_cli.output.console import Output, print_json


@command()
@joining_options
def add(
    store: Path, finetunes: tuple[str, ...], base_from: Path | None, out: Output, **how: Any
) -> None:
    """Put fine-tunes into STORE, in the time that they take alone.

    It reads the base and these fine-tunes, and writes their files. All other files stay as they
    are, and whoever reads the store reads on. A mask is made over the multi-task model that is
    there; where it would be too far from the fine-tune, the task gets a rest.

    \b
    taskstore add family chat=runs/31/final
    """
    from taskstore.packing.revise import add as run

    _join(run, store, finetunes, base_from, out, how)


@command()
@joining_options
@yes_option
def replace(
    store: Path,
    finetunes: tuple[str, ...],
    yes: bool,
    base_from: Path | None,
    out: Output,
    **how: Any,
) -> None:
    """Give tasks of STORE new weights; their scores are dropped.

    See `taskstore add`. A task keeps the tiers that it has, unless --tiers asks for others. It
    asks first where the fine-tune that goes is held bit for bit, and no other copy is known.

    \b
    taskstore replace family chat=runs/32/final
    """
    from taskstore.packing.revise import replace_tasks as run

    _join(run, store, finetunes, base_from, out, how, partial(ask_for_originals, yes=yes))


def _join(
    run: Callable[..., Any],
    store: Path,
    finetunes: tuple[str, ...],
    base_from: Path | None,
    out: Output,
    how: dict[str, Any],
    before: Callable[..., None] = lambda *_: None,
) -> None:
    from taskstore_cli.output.store import print_report

    options, tasks = add_options(**how), named(finetunes)
    with common.store_to_change(store, base_from) as opened:
        before(opened, tasks)
        with out.progress() as progress:
            report = run(opened, tasks, options, progress=progress)
    print_report(report, out)


@command()
@click.argument("store", type=common.StorePath(), is_eager=True)
@click.argument("tasks", nargs=-1, required=True, type=common.TaskName())
@yes_option
@common.wait_option()
@common.says_options
@dry_run_option
def remove(store: Path, tasks: tuple[str, ...], yes: bool, out: Output) -> None:
    """Take TASKS out of STORE; all others stay, bit for bit.

    It asks first where no other copy of a fine-tune is known: on a hub, at a commit, or, with an
    exact tier, in the folder beside STORE that it came from.
    """
    from taskstore.packing.changes.copies import only_copies
    from taskstore.packing.changes.tasks import remove as run
    from taskstore_cli.output.store import print_summary

    with common.store_to_change(store) as opened:
        lost = {task: opened.fidelity(task) for task in only_copies(opened, tasks)}
        would = [f"would remove {described(task, lost)}" for task in tasks]
        note_losses(lost, would, store=str(store), would_remove=tasks)
        ask(store, lost, yes=yes)
        left = run(opened, list(tasks))
    summary = left.summary()
    if out.as_json:
        print_json({"store": str(store), **summary.to_dict()})
    elif not out.quiet:
        print_summary(str(store), summary)


@command()
@click.argument("store", type=common.StorePath())
@click.option(
    "--tiers", required=True, metavar="TIER,...", help="What the new store keeps of each task."
)
@rest_bits_option("As of pack.")
@common.output_option("NEW", "Folder for the new store; the old one stays.", required=False)
@click.option("--drop-exact", is_flag=True, help="Replace an archive by less, in its own place.")
@click.option("--lambda", "lambdas", multiple=True, metavar="[NAME=]X", help="As of pack.")
@method_options()
@statistics_option
@common.level_option
@parent_options
@common.base_from_option
@common.cluster_option
@common.jobs_option
@common.wait_option()
@common.says_options
@dry_run_option
@overwrite_store_option("a store that is at NEW")
def retier(
    store: Path,
    target: Path | None,
    drop_exact: bool,
    base_from: Path | None,
    out: Output,
    **packing: Any,
) -> None:
    """Pack an archive again with other tiers, without the originals.

    STORE is an archive (--tiers exact).

    \b
    taskstore retier archive --tiers mask -o family
    """
    from taskstore.packing.revise import retier as run
    from taskstore_cli.output.store import print_report

    options = make_options(**packing)
    if drop_exact and "exact" in options.tier_names:
        raise click.UsageError(
            "--drop-exact does nothing with --tiers exact: leave one of them out"
        )
    if target is None and "exact" not in options.tier_names and not drop_exact:
        raise click.UsageError(
            "a store without --tiers exact in place of the archive would lose the fine-tunes; give "
            "-o NEW, or --drop-exact"
        )
    with ExitStack() as stack:
        if target is None:
            opened = stack.enter_context(common.store_to_change(store, base_from))
        else:
            opened = common.opened(store, base_from)
        progress = stack.enter_context(out.progress())
        report = run(opened, options, target, progress=progress)
    print_report(report, out)
