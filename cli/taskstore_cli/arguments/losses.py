"""Asks before fine-tunes that are nowhere else are deleted: `--yes`, and what is named."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import taskstore
from taskstore.format.names import plain
from taskstore_cli.arguments import common

if TYPE_CHECKING:
    from taskstore.format.fidelity import Fidelity
    from taskstore.locations.base import PathLike

yes_option = click.option("-y", "--yes", is_flag=True, help="Do not ask.")


def overwrite_store_option(what: str) -> Callable[[common.F], common.F]:
    """--overwrite of a store, which asks where its exact tasks are nowhere else, and --yes.

    It stands below `dry_run_option`, as what it finds is part of a dry run.
    """

    def add(command: common.F) -> common.F:
        @common.overwrite_option(what)
        @yes_option
        @functools.wraps(command)
        def run(*, yes: bool, **given: Any) -> Any:
            if given["overwrite"]:
                _before_overwriting(given, yes=yes)
            return command(**given)

        return run  # type: ignore[return-value]

    return add


def _before_overwriting(given: Mapping[str, Any], *, yes: bool) -> None:
    """Ask for what goes with the store at the target; the models that are read stay."""
    from taskstore_cli.arguments.family import named

    try:
        there = taskstore.open(given["target"])
    except taskstore.TaskstoreError:
        return  # none, or a damaged one, of which nothing is known
    stores = [common.opened(given["store"])] if "store" in given else []
    models = [Path(model) for model in named(given.get("finetunes", ())).values()]
    folders = [model.parent if model.is_file() else model for model in models]
    folders += [child for run in folders if run.is_dir() for child in run.iterdir()]
    ask_for_originals(there, there.tasks, yes=yes, folders=folders, stores=stores)


def ask_for_originals(
    store: taskstore.Store,
    tasks: Iterable[str],
    *,
    yes: bool,
    folders: Iterable[Path] = (),
    stores: Iterable[taskstore.Store] = (),
) -> None:
    """Ask before exact tasks go that are nowhere else, nor in `folders` or other `stores`."""
    from taskstore.packing.changes.copies import only_copies

    exact = [task for task in tasks if "exact" in store.manifest.tasks[task].all_tiers]
    lost = {task: store.fidelity(task) for task in only_copies(store, exact, folders, stores)}
    if lost:
        note_losses(lost, [f"would delete {described(task, lost)}" for task in lost])
        ask(store.where, lost, yes=yes)


def note_losses(lost: Mapping[str, Fidelity], also: Sequence[str], **facts: Any) -> None:
    """Say in a dry run what would be lost, and `also` lines about it."""
    from taskstore.locations import dry

    fidelity = {task: asdict(found) for task, found in lost.items()}
    dry.note(would_lose=fidelity, also=also, **facts)


def ask(store: PathLike, lost: Mapping[str, Fidelity], *, yes: bool) -> None:
    """Ask before tasks go of which no other copy is known, but in a dry run.

    Raises UsageError where nobody can answer.
    """
    from taskstore.locations import dry

    if not lost or yes or dry.on():
        return
    named = "; ".join(described(task, lost) for task in lost)
    if not sys.stdin.isatty():
        raise click.UsageError(f"this deletes {named}; add --yes, or look with --dry-run")
    click.confirm(f"Delete from {store}: {named}?", abort=True, err=True)


def described(task: str, lost: Mapping[str, Fidelity]) -> str:
    """A task that goes, and whether its fine-tune is lost."""
    if task not in lost:
        return f"{plain(task)}, whose fine-tune is on a hub, or beside the store"
    return f"{plain(task)} ({lost[task].words}), of which no other copy is known"
