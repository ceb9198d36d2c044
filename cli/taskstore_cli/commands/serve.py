"""`taskstore serve`"""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NoReturn

import click

from taskstore_cli.arguments import common
from taskstore_cli.arguments.command import Command, Option, command
from taskstore_cli.arguments.common import StorePath, base_from_option
from taskstore_cli.arguments.serve import ServedName, ServedNames, ServedTier, scheduling_options
from taskstore_cli.output.console import versioned

if TYPE_CHECKING:
    from taskstore_serving.checks.choice import Choice
    from taskstore_serving.launch.arguments import Launch

    from taskstore.store import Store


class Serve(Command):
    """Says where vLLM's options go."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            message = f"{error.format_message()} Options of vLLM come after --."
            raise click.UsageError(message, ctx) from None


@command(cls=Serve)
@click.argument("store", type=StorePath(), is_eager=True)
@click.argument("given", metavar="[-- VLLM OPTION...]", nargs=-1, type=click.UNPROCESSED)
@click.option("--host", default="127.0.0.1", show_default=True, help="0.0.0.0: every network.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8000,
    show_default=True,
    help="0 takes one that is free.",
)
@click.option(
    "--api-key",
    envvar=["TASKSTORE_API_KEY", "VLLM_API_KEY"],
    metavar="KEY",
    help="What clients must send as a bearer token; better in the environment, as "
    "TASKSTORE_API_KEY, where `ps` does not show it.",
)
@click.option("--tasks", type=ServedNames(), default="", help="Tasks to serve.  [default: all]")
@click.option(
    "--default-task",
    type=ServedName(),
    default="",
    help="Task of requests that name no model.  [default: the base]",
)
@click.option(
    "--served-model-name",
    "names",
    multiple=True,
    metavar="NAME",
    help="Name of the base; repeatable.  [default: the one in the store]",
)
@click.option(
    "--skip-unservable",
    is_flag=True,
    help="Leave out tasks that no engine can serve beside the others, and say which.",
)
@click.option("--watch", is_flag=True, help="Follow changes of STORE; new tasks, without --tasks.")
@scheduling_options
@click.option(
    "--masks-on",
    "masks",
    cls=Option,
    also=["--masks"],
    type=click.Choice(["host", "device"]),
    default="host",
    show_default=True,
    help="Where masks wait; device: faster swaps, less room for requests.",
)
@click.option(
    "--tier",
    cls=Option,
    also=["--residual"],
    type=ServedTier(["auto", "mask", "rest"]),
    default="auto",
    show_default=True,
    help="Serve the tiers up to this one, where a task has it; auto: the best there is.",
)
@base_from_option
@click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    help="Of the lines about requests: task, tokens, times, and no word of what was said.  "
    "[default: text]",
)
@click.option(
    "--print-command",
    is_flag=True,
    help="Print the commands that start vLLM in the same way, and start nothing.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON line on stdout when it is ready.")
def serve(
    store: Path,
    given: tuple[str, ...],
    host: str,
    port: int,
    api_key: str | None,
    tasks: str,
    default_task: str,
    names: tuple[str, ...],
    skip_unservable: bool,
    watch: bool,
    quantum: float | None,
    batching: str,
    policy: str,
    masks: str,
    tier: str,
    base_from: Path | None,
    log_format: str | None,
    print_command: bool,
    as_json: bool,
) -> None:
    """Serve the tasks of STORE with vLLM, on one endpoint.

    One set of weights serves all tasks. Clients name a task as the model. Whatever comes after --
    goes to vLLM. Ctrl-C or SIGTERM ends it with status 0.

    \b
    taskstore serve family --tasks billing,legal -- --max-model-len 4096
    """
    from taskstore_serving.checks import choice, versions
    from taskstore_serving.checks.command_line import check_words
    from taskstore_serving.checks.length import check_length
    from taskstore_serving.checks.platform import on_cpu, room
    from taskstore_serving.launch.arguments import Launch
    from taskstore_serving.launch.server import listen
    from taskstore_serving.options import ServeOptions

    from taskstore_cli.output import logs

    opened = common.opened(store, base_from)
    check_words(given)
    named = [task for task in tasks.split(",") if task]
    above, why = choice.best_residual(opened, named, given)
    if tier != "auto":
        above, why = int(tier == "rest"), ""
    chosen = choice.choose(
        opened, named, residual=above, default=default_task, skip=skip_unservable
    )
    options = ServeOptions(
        store=str(opened.where) if opened.is_elsewhere else str(store.resolve()),
        tasks=tuple(chosen.tiers),
        base_from=str(base_from.resolve()) if base_from else "",
        masks=masks,  # type: ignore[arg-type]
        residual=above,  # type: ignore[arg-type]
        quantum=quantum,
        default_task=default_task,
        watch="no" if not watch else "served" if tasks else "all",
        batching=batching,  # type: ignore[arg-type]
        policy=policy,  # type: ignore[arg-type]
    )
    check_length(given, choice.base_settings(opened))
    versions.check()
    cpu = on_cpu()
    of_base = choice.base_names(opened, names, tuple(chosen.tiers))
    bound = None if print_command else listen(host, port)
    launch = Launch(
        options=options,
        names=of_base,
        host=host,
        port=bound.getsockname()[1] if bound else port,
        cpu=cpu,
        dtype=choice.dtype(opened.manifest),
        room=room(),
        given=given,
    )
    if why:
        _say(f"masks alone are served: {why}; --tier rest tries it")
    for task, reason in chosen.left_out.items():
        _say(f"left out: {reason}" if task in reason else f"left out {task}: {reason}")
    if bound is None:
        _print_command(launch, api_key)
        return
    if log_format:
        level = logs.asked(os.environ.get(logs.VARIABLE, ""))[0]
        os.environ[logs.VARIABLE] = ",".join(filter(None, [level, log_format]))
    _announce(launch, chosen, opened, open_to_all=not api_key)
    with bound:
        _serve(launch, opened, bound, api_key, _ready(launch, chosen, opened, as_json))


def _serve(
    launch: Launch, store: Store, bound: Any, api_key: str | None, ready: Callable[[], None]
) -> None:
    from taskstore_serving.launch.children import PREFIX
    from taskstore_serving.launch.server import run

    from taskstore.locations.scratch import writable

    if api_key:
        os.environ["VLLM_API_KEY"] = api_key
    place = writable(store.path.absolute(), small=True)
    with TemporaryDirectory(prefix=PREFIX, dir=place, ignore_cleanup_errors=True) as scratch:
        try:
            assets = store.write_assets(None, Path(scratch) / "base")
            run(launch, assets, Path(scratch), bound, _refuse, ready)
        except KeyboardInterrupt:
            _say("stopped before it was ready")
            sys.exit(130)
    _say("stopped")


def _refuse(message: str) -> NoReturn:
    raise click.UsageError(message)


def _say(line: str) -> None:
    click.echo(line, err=True)


def _url(launch: Launch) -> str:
    from taskstore_serving.checks.command_line import option_names

    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(launch.host, launch.host)
    scheme = "https" if "ssl-certfile" in option_names(launch.given) else "http"
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{launch.port}/v1"


def _announce(launch: Launch, chosen: Choice, store: Store, *, open_to_all: bool) -> None:
    from taskstore_serving.checks import kept

    served = ", ".join(f"{task} ({tier})" for task, tier in chosen.tiers.items())
    default = launch.options.default_task or launch.names[0]
    _say(
        f"serving {served} and the base {launch.names[0]}; without a model's name {default}; "
        f"port {launch.port} of {launch.host}"
    )
    for task, tier in chosen.tiers.items():
        _say(f"{task}: {kept.words(store.manifest, task, tier)}")
    unsafe = [t for t, tier in chosen.tiers.items() if not kept.is_safe(store.manifest, t, tier)]
    if unsafe:
        _say(
            f"warning: what {', '.join(unsafe)} lost of the fine-tune may show; measure it with "
            "`taskstore eval` before you rely on it"
        )
    if open_to_all and launch.host in ("0.0.0.0", "::", ""):
        _say("warning: every network can reach this, and no API key is asked for")


def _ready(launch: Launch, chosen: Choice, store: Store, as_json: bool) -> Callable[[], None]:
    """What to do when it is; with --json nothing else is written to stdout, so vLLM's logs move."""
    from taskstore_serving.checks.kept import kept

    if not as_json:
        return lambda: _say(f"ready: {_url(launch)}")
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    document = {
        "ready": True,
        "url": _url(launch),
        "host": launch.host,
        "port": launch.port,
        "pid": os.getpid(),
        "base": list(launch.names),
        "default_task": launch.options.default_task or None,
        "tasks": dict(chosen.tiers),
        "kept": {task: kept(store.manifest, task, tier) for task, tier in chosen.tiers.items()},
        "left_out": dict(chosen.left_out),
    }
    line = json.dumps(versioned(document, "serve"), ensure_ascii=False)
    return lambda: print(line, file=out, flush=True)


def _print_command(launch: Launch, api_key: str | None) -> None:
    """A script for a POSIX shell."""
    folder = "taskstore-base"
    write = (
        f"import taskstore; taskstore.open({launch.options.store!r}"
        + (f", base={launch.options.base_from!r}" if launch.options.base_from else "")
        + f").write_assets(None, {folder!r})"
    )
    if api_key:
        click.echo("# the API key comes from VLLM_API_KEY")
    click.echo(shlex.join(["python", "-c", write]))
    words = launch.arguments(folder, os.environ)
    variables = [f"{name}={shlex.quote(v)}" for name, v in launch.environment(os.environ).items()]
    start = ["python", "-m", "vllm.entrypoints.launchers.api_server.entry"]
    click.echo(" ".join([*variables, *start, shlex.join(words)]))
