"""`taskstore rename`, `copy`, `log`, `gc`, `repair`: tasks elsewhere, what was done to a store."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path

import click

from taskstore.format.names import plain
from taskstore_cli.arguments import common
from taskstore_cli.arguments.command import command
from taskstore_cli.arguments.dry_run import dry_run_option
from taskstore_cli.arguments.losses import overwrite_store_option
from taskstore_cli.output.console import Output, counted, plain_table, print_json, show, stdout
from taskstore_cli.output.console import size as bytes_of


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
        out,
        {"store": str(store), "tasks": done.tasks, "version": done.version},
        f"{old} is now {new}",
    )


@command()
@click.argument("store", type=common.StorePath(), is_eager=True)
@click.argument("words", metavar="[TARGET] [TASK]...", nargs=-1)
@common.output_option(
    "OTHER", "Folder or address for the new store, in the place of TARGET.", required=False
)
@common.jobs_option
@common.wait_option()
@common.says_options
@dry_run_option
@overwrite_store_option("a store that is at OTHER")
def copy(
    store: Path,
    words: tuple[str, ...],
    target: Path | None,
    overwrite: bool,
    jobs: int | None,
    out: Output,
) -> None:
    """Copy STORE, or some TASKs of it, to another folder or address.

    Nothing is decoded.

    A copy that was stopped goes on where it was when it is run again.

    \b
    taskstore copy family s3://bucket/family
    taskstore copy s3://bucket/family here billing legal
    """
    from taskstore.packing.changes.tasks import copy as run
    from taskstore_cli.output.store import print_made

    if target is None and not words:
        raise click.UsageError("say where to copy it: TARGET, or -o OTHER")
    given, tasks = (words[0], words[1:]) if target is None else (target, words)
    target = common.StorePath().convert(given, None, None)
    done = run(common.opened(store), tasks or None, target, overwrite=overwrite, jobs=jobs)
    if out.as_json:
        print_json({"store": str(target), **done.summary().to_dict()})
    elif not out.quiet:
        print_made(str(target), done.summary())


@command()
@click.argument("store", type=common.StorePath())
@common.json_option
def log(store: Path, as_json: bool) -> None:
    """List what was done to STORE, when, and by which version."""
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
        between = " -> " if change.what == "rename" else ", "
        tasks = between.join(map(plain, change.tasks)) or "-"
        before = (change.before or "-")[:12]
        table.add_row(change.when, plain(change.what), tasks, plain(change.writer), before)
    if changes:
        show(stdout(), "what was done", table, first=True)
        click.echo()
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
@click.option(
    "--older-than",
    type=click.FloatRange(min=0),
    default=24,
    show_default=True,
    metavar="HOURS",
    help="Of a store at an address: files that were put, or replaced, later stay.",
)
@common.wait_option()
@common.says_options
@dry_run_option
def gc(store: Path, unknown: bool, older_than: float, out: Output) -> None:
    """Remove files that no reader needs any more.

    They are those of older versions of STORE alone. A command that changes STORE does so too, at
    its end; files that were read then are left. At an address nobody knows who reads: there, time
    decides, and what killed writers left goes too.
    """
    from taskstore.locations.remote.mirror import address_of
    from taskstore.packing.changes.commit import collect
    from taskstore.packing.elsewhere import collecting
    from taskstore.packing.only_writer import place_of

    if address_of(store):
        size, left = collecting.collect(store, older_than * 3600)
        found = {"store": str(store), "removed_bytes": size, "versions_in_use": left}
        _say(out, found, f"removed {bytes_of(size) if size else 'nothing'}")
        return
    with common.store_to_change(store) as opened:
        size, left = collect(place_of(opened), unknown=unknown)
    kept = f"; in use: {counted(left, 'older version')}" if left else ""
    found = {"store": str(store), "removed_bytes": size, "versions_in_use": left}
    _say(out, found, f"removed {bytes_of(size) if size else 'nothing'}{kept}")


@command()
@click.argument("store", type=common.StorePath())
@click.option(
    "--from",
    "sources",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="OTHER|MODEL",
    help="A store with the same files, a fine-tune that was packed, or the base; repeatable.",
)
@common.base_from_option
@common.jobs_option
@common.cache_option
@common.wait_option()
@common.says_options
@dry_run_option
def repair(
    store: Path,
    sources: tuple[Path, ...],
    base_from: Path | None,
    jobs: int | None,
    out: Output,
) -> None:
    """Mend files of STORE that are damaged or missing, byte for byte.

    What comes from a copy, or is coded again from an original, counts only if it has the recorded
    checksum. A damaged taskstore.json comes from a copy too, or is the one before the last change,
    where that is still there. The exit status is 1 where something is left.

    \b
    taskstore repair family --from backup/family --from runs/31/final
    """
    from taskstore.packing.changes.repair import repair as run

    with out.progress() as progress:
        found = run(store, sources, base=base_from, jobs=jobs, progress=progress)
    for note in found.notes:
        click.echo(f"note: {plain(note)}", err=True)
    for path in found.left:
        click.echo(f"{click.style('damaged:', fg='red', bold=True)} {plain(path)}", err=True)
    mended = ", ".join(map(plain, found.mended))
    whole = "" if found.left else ", nothing is damaged"
    words = f"{store}: mended {mended or f'nothing{whole}'}"
    _say(out, {"store": str(store), **asdict(found)}, words)
    if found.left:
        sys.exit(1)


def _say(out: Output, found: dict[str, object], words: str) -> None:
    if out.as_json:
        print_json(found)
    elif not out.quiet:
        click.echo(words)
