"""Arguments and options that several commands share."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem

import taskstore
from taskstore.format.names import TIER_FILES
from taskstore_cli.arguments.command import Option
from taskstore_cli.output.console import Output

F = TypeVar("F", bound=Callable[..., Any])
RESUME = "taskstore_cli.resume"  # key of a context's meta


class StorePath(click.Path):
    """A path, or an address of a store, which stays as it was written; completes folders."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        from taskstore.locations.remote.mirror import address_of

        address = address_of(value)
        return str(address) if address else super().convert(value, param, ctx)


class Word(click.ParamType[str]):
    """A word that is completed out of a list; it is checked where it is used."""

    def words(self, ctx: click.Context, incomplete: str) -> Iterable[str]:
        raise NotImplementedError

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        words = self.words(ctx, incomplete)
        return [CompletionItem(word) for word in words if word.startswith(incomplete)]


class TaskName(Word):
    """A task of the store that the command line names."""

    name = "task"

    def words(self, ctx: click.Context, incomplete: str) -> Iterable[str]:
        try:
            return taskstore.open(ctx.params["store"]).tasks
        except (taskstore.TaskstoreError, KeyError, TypeError, OSError):
            return []


def output_option(
    metavar: str, help: str = "Folder to write.", *, required: bool = True, also: Sequence[str] = ()
) -> Callable[[F], F]:
    """-o, where a command writes; `also`: other spellings."""
    return click.option(
        "-o",
        "--output",
        "target",
        cls=Option,
        also=also,
        required=required,
        type=StorePath(),
        metavar=metavar,
        help=help,
    )


def overwrite_option(what: str) -> Callable[[F], F]:
    """--overwrite; `what` is replaced."""
    return click.option("--overwrite", is_flag=True, help=f"Replace {what} already.")


def _wait(ctx: click.Context, _: click.Parameter, seconds: float) -> None:
    from taskstore.locations import locks

    ctx.with_resource(locks.waiting(seconds))


def wait_option(seconds: float = 0) -> Callable[[F], F]:
    """--wait: the library's writers do it while the command runs."""
    return click.option(
        "--wait",
        type=click.FloatRange(min=0),
        default=seconds,
        show_default=True,
        metavar="SECONDS",
        expose_value=False,
        callback=_wait,
        help="How long to wait for another taskstore that writes the same target.",
    )


def _cached(ctx: click.Context, _: click.Parameter, given: bool) -> None:
    from taskstore.locations.remote import elsewhere

    if given:
        ctx.with_resource(elsewhere.cached_whole())


cache_option = click.option(
    "--cache",
    is_flag=True,
    expose_value=False,
    callback=_cached,
    help="Fetch models of a hub whole, into its cache, and read them there: for methods that read "
    "several times. Without it their weights are read by ranges and never written.",
)


def _joined(ctx: click.Context, _: click.Parameter, given: str | None) -> None:
    from taskstore.cluster import on_cluster

    ctx.with_resource(on_cluster(given, resume=ctx.meta[RESUME]))


def _resumed(ctx: click.Context, _: click.Parameter, given: bool) -> None:
    ctx.meta[RESUME] = given


def cluster_option(command: F) -> F:
    """--cluster, and --resume, which is read before it."""
    joined = click.option(
        "--cluster",
        metavar="auto|HOST:PORT",
        expose_value=False,
        callback=_joined,
        help="Run on a Ray cluster whose machines see the same paths (extra ray); auto: the one of "
        "this machine.",
    )
    resumed = click.option(
        "--resume",
        is_flag=True,
        is_eager=True,
        expose_value=False,
        callback=_resumed,
        help="With --cluster: take up what a run has done that died; give the same models and "
        "options.",
    )
    return joined(resumed(command))


@contextmanager
def store_to_change(store: Path, base_from: Path | None = None) -> Iterator[taskstore.Store]:
    """Open a store that the block replaces, and let no other writer at it meanwhile."""
    from taskstore.packing.only_writer import alone

    found = opened(store, base_from)  # what is no store is not locked
    found.close()
    with alone(found):
        yield opened(store, base_from)


def opened(path: Path, base_from: Path | None = None) -> taskstore.Store:
    """Open a store; raises OptionError where it carries the base, so that another is not read."""
    from taskstore.errors import OptionError

    store = taskstore.open(path, base=base_from)
    if base_from is not None and store.manifest.base.carried:
        raise OptionError(f"--base-from does nothing: {path} carries its base; leave it out")
    return store


base_argument = click.argument("base", type=StorePath())
quiet_option = click.option("-q", "--quiet", is_flag=True, help="No progress, no tables.")
json_option = click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")


def says_options(command: F) -> F:
    """--json and -q, as one `out`."""

    @functools.wraps(command)
    def collected(*, as_json: bool, quiet: bool, **given: Any) -> Any:
        return command(**given, out=Output(as_json, quiet))

    return json_option(quiet_option(collected))  # type: ignore[return-value]


jobs_option = click.option(
    "-j", "--jobs", type=click.IntRange(min=1), help="Threads.  [default: the cores there are]"
)
max_memory_option = click.option(
    "--max-memory",
    default="2GiB",
    show_default=True,
    metavar="SIZE",
    help="Memory for blocks in flight.",
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
    type=click.Choice(list(TIER_FILES)),
    help="Rebuild with the tiers up to this one.  [default: the best there is]",
)
base_from_option = click.option(
    "--base-from",
    type=click.Path(path_type=Path),
    help="Folder of the base, for a store that only references it.",
)
