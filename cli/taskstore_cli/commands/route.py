"""`taskstore route`"""

from __future__ import annotations

from pathlib import Path

import click

from taskstore.errors import InputError
from taskstore_cli.arguments import common
from taskstore_cli.arguments.command import command
from taskstore_cli.arguments.dry_run import dry_run_option
from taskstore_cli.arguments.sizes import parse_bytes
from taskstore_cli.output.console import Output, counted, plain_table, print_json, show, stdout


@command()
@click.option(
    "--servers",
    required=True,
    metavar="HOST:PORT,...",
    help="Servers of the same store, each a `taskstore serve`.",
)
@click.option(
    "--tasks-from",
    type=common.StorePath(),
    metavar="STORE",
    help="Tasks to place.  [default: those that the servers say]",
)
@common.output_option("FILE", "HAProxy's configuration; its map of tasks is written beside it.")
@click.option("--bind", default=":8000", show_default=True, help="Where clients call.")
@click.option(
    "--buffer",
    default="1MiB",
    show_default=True,
    metavar="SIZE",
    help="Of a request, to find its model: above the longest prompt.",
)
@click.option("--api-key", envvar="TASKSTORE_API_KEY", help="Key of the servers.")
@click.option(
    "--watch", is_flag=True, help="Follow tasks and load, and move tasks of the HAProxy that runs."
)
@click.option(
    "--interval",
    type=click.FloatRange(min=0.1),
    default=10.0,
    show_default=True,
    help="With --watch: seconds between two looks.",
)
@click.option(
    "--drain",
    metavar="HOST:PORT",
    help="Send a server no new requests of the HAProxy that runs; done when its last has ended.",
)
@click.option("--ready", metavar="HOST:PORT", help="Send a server that was drained requests again.")
@common.overwrite_option("a configuration that is there")
@common.says_options
@dry_run_option
def route(
    servers: str,
    tasks_from: Path | None,
    target: Path,
    bind: str,
    buffer: str,
    api_key: str | None,
    watch: bool,
    interval: float,
    drain: str | None,
    ready: str | None,
    overwrite: bool,
    out: Output,
) -> None:
    """Write HAProxy's configuration for several servers.

    A request goes to the server of its task, by the body's `model`; a dead server's tasks go to
    the others.

    \b
    taskstore route --servers a:8000,b:8000 --tasks-from family -o haproxy.cfg
    haproxy -f haproxy.cfg
    """
    from taskstore.routing import files
    from taskstore.routing.haproxy import RouterOptions, names_of
    from taskstore.routing.watch import tasks_of

    named = names_of(servers.split(","))
    if server := drain or ready:
        files.drain(named, target, server, back=ready is not None)
        if not out.quiet:
            click.echo(f"{server} {'gets requests again' if ready else 'has no requests any more'}")
        return
    if watch:
        files.follow(named, target, interval, api_key, lambda moves: _say_moves(moves, out))
        return
    tasks = common.opened(tasks_from).tasks if tasks_from else tasks_of(named, api_key)
    if not tasks:
        raise InputError(
            f"no server of {servers} answers: start them, or name the store by --tasks-from"
        )
    options = RouterOptions(bind=bind, buffer=parse_bytes(buffer))
    placed = files.write(named, tasks, target, options, overwrite=overwrite)
    if out.as_json:
        print_json({"configuration": str(target), "tasks": placed})
    elif not out.quiet:
        table = plain_table("task", "server", words=["task", "server"])
        for task, server in sorted(placed.items()):
            table.add_row(task, server)
        show(stdout(), f"{counted(len(placed), 'task')} -> {target}", table, first=True)


def _say_moves(moves: dict[str, str], out: Output) -> None:
    for task, server in sorted(moves.items()):
        if not out.quiet:
            click.echo(f"{task} -> {server}")
