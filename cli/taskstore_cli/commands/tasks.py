"""`taskstore rename`, `copy`, `log`, `gc`: tasks elsewhere, what was done, what is left of it."""

from __future__ import annotations

from pathlib import Path

import click

from taskstore.format.names import plain
from taskstore_cli.arguments import common
from taskstore_cli.arguments.command import command
from taskstore_cli.arguments.dry_run import dry_run_option
from taskstore_cli.output.console import Output, plain_table, print_json, stdout


@command()
@click.argument("store", type=common.StorePath(), is_eager=True)
@click.argument("old", type=common.TaskName())
@click.argument("new")
@common.wait_option()
@common.says_options
@dry_run_option
def rename(store: Path, old: str, new: str, out: Output) -> None:
    """Give the task OLD of STORE the name NEW; no file of it changes."""
    from taskstore.packing.changes.tasks import rename as run

    with common.store_to_change(store) as opened:
        done = run(opened, old, new)
    _say(
        out, {"store": str(store), "tasks": done.tasks, "version": done.version}, f"{old} is {new}"
    )


@command()
@click.argument("store", type=common.StorePath(), is_eager=True)
@click.argument("tasks", nargs=-1, required=True, type=common.TaskName())
@common.output_option("OTHER", "Folder for the new store.")
@common.overwrite_option("a store that is at OTHER")
@common.jobs_option
@common.wait_option()
@common.says_options
@dry_run_option
def copy(
    store: Path,
    tasks: tuple[str, ...],
    target: Path,
    overwrite: bool,
    jobs: int | None,
    out: Output,
) -> None:
    """Make a store of some TASKS of STORE; files are copied and checked, nothing is decoded."""
    from taskstore.packing.changes.tasks import copy as run
    from taskstore_cli.output.store import print_summary

    done = run(common.opened(store), tasks, target, overwrite=overwrite, jobs=jobs)
    if out.as_json:
        print_json({"store": str(target), **done.summary().to_dict()})
    elif not out.quiet:
        print_summary(str(target), done.summary())


@command()
@click.argument("store", type=common.StorePath())
@common.json_option
def log(store: Path, as_json: bool) -> None:
    """List what was done to STORE, when, and by which version; the last change stands last."""
    from msgspec import to_builtins

    opened = common.opened(store)
    changes = opened.manifest.history or []
    if as_json:
        print_json(
            {"store": str(store), "version": opened.version, "changes": to_builtins(changes)}
        )
        return
    table = plain_table(
        "when", "what", "tasks", "by", "from", words=["when", "what", "tasks", "by"]
    )
    for change in changes:
        tasks = ", ".join(map(plain, change.tasks)) or "-"
        before = (change.before or "-")[:12]
        table.add_row(change.when, plain(change.what), tasks, plain(change.writer), before)
    if changes:
        stdout().print(table)
    else:
        click.echo("nothing was changed since it was packed")
    click.echo(f"version {opened.version[:12]}")


@command()
@click.argument("store", type=common.StorePath())
@click.option(
    "--unknown",
    is_flag=True,
    help="Also files of versions of which nobody can know whether they are read: on a file system "
    "without locks or hard links.",
)
@common.wait_option()
@common.says_options
def gc(store: Path, unknown: bool, out: Output) -> None:
    """Remove files of older versions of STORE that nobody reads any more.

    A command that changes STORE does so too, at its end; files that were read then are left.
    """
    from taskstore.packing.changes.commit import collect
    from taskstore.packing.only_writer import place_of

    with common.store_to_change(store) as opened:
        size, left = collect(place_of(opened), unknown=unknown)
    kept = f"; {left} older versions are in use" if left else ""
    found = {"store": str(store), "removed_bytes": size, "versions_in_use": left}
    _say(out, found, f"removed {size:,} bytes{kept}")


def _say(out: Output, found: dict[str, object], words: str) -> None:
    if out.as_json:
        print_json(found)
    elif not out.quiet:
        click.echo(words)
