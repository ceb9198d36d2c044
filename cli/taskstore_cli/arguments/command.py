"""What every command is: options in groups, old spellings that still work, and -v."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click
import cloup
from click.core import ParameterSource as Source

from taskstore_cli.output.options import flag

if TYPE_CHECKING:
    from click.parser import _OptionParser

# Title in `--help` -> its options, in this order. What is in no group stands last, under General.
OPTION_GROUPS: Mapping[str, Sequence[str]] = {
    "What is read": (
        *("--all", "--base", "--tier", "--adapter", "--exact", "--from", "--base-from"),
        *("--config", "--tasks"),
        *("--original", "--data", "--limit", "--max-length", "--overlap", "--vectors", "--deep"),
    ),
    "What is served": (
        *("--default-task", "--skip-unservable", "--masks-on", "--quantum", "--watch"),
        *("--servers", "--tasks-from", "--bind", "--buffer", "--interval", "--drain", "--ready"),
        *("--batching", "--policy"),
        *("--host", "--port", "--api-key", "--served-model-name"),
    ),
    "What is written": (
        "--output",
        "--ollama",
        "--private",
        "--revision",
        "--create-pr",
        "--shard-size",
        "--overwrite",
        "--yes",
        "--unknown",
        "--older-than",
        "--dry-run",
    ),
    "What is kept": (
        *("--tiers", "--lambda", "--rest-bits", "--masks", "--level", "--base-mode"),
        *("--parent", "--depth", "--keep-private", "--drop-exact", "--repack"),
    ),
    "How it is merged": (
        *(
            "--method",
            "--density",
            "--option",
            "--statistics",
            "--examples",
            "--alpha",
            "--weight",
            "--dtype",
        ),
        *("--tokenizer-from", "--assets-from", "--private-from", "--unrelated"),
    ),
    "What is measured": (*("--kinds", "--labels", "--samples", "--batch", "--time", "--repeat"),),
    "What is searched": (
        *("--target", "--max-error", "--anyway", "--search", "--budget", "--layers"),
        *("--point", "--minimise", "--loss", "--plot"),
    ),
    "How it is scored": (
        *(
            "--eval",
            "--eval-limit",
            "--lm-eval",
            "--include-path",
            "--num-fewshot",
            "--apply-chat-template",
        ),
        *("--key", "--timeout", "--journal", "--scratch", "--record"),
    ),
    "How it runs": (
        "--seed",
        "--part",
        "--cluster",
        "--resume",
        "--jobs",
        "--max-memory",
        "--cache",
        "--device",
        "--wait",
    ),
}


VERBOSE, SOURCE = "taskstore_cli.verbose", "taskstore_cli.source"  # keys of a context's meta


class Option(click.Option):
    """An option with old or other spellings, `also`, which work and are shown nowhere."""

    def __init__(self, *words: Any, also: Sequence[str] = (), **given: Any) -> None:
        super().__init__(*words, **given)
        self.also = also

    def add_to_parser(self, parser: _OptionParser, ctx: click.Context) -> None:
        shown, self.opts = self.opts, [*self.opts, *self.also]
        try:
            super().add_to_parser(parser, ctx)
        finally:
            self.opts = shown


class Command(cloup.Command):
    """A command with its options in groups; an example stands at the end of its help."""

    def __init__(self, *words: Any, params: Iterable[click.Parameter] = (), **given: Any) -> None:
        super().__init__(*words, params=_grouped([*params, _verbose()]), **given)

    def invoke(self, ctx: click.Context) -> Any:
        from taskstore_cli.output import logs

        used = self._from_file(ctx, lambda p: ctx.get_parameter_source(p) is Source.DEFAULT_MAP)
        if used and not (ctx.params.get("quiet") or ctx.params.get("as_json")):
            click.echo(used, err=True)
        with logs.written(ctx.info_name or "", ctx.meta[VERBOSE]):
            return super().invoke(ctx)

    def get_default_option_group(
        self, ctx: click.Context, is_the_only_visible_option_group: bool = False
    ) -> cloup.OptionGroup:
        group = super().get_default_option_group(ctx, is_the_only_visible_option_group)
        group.title = "General"
        return group

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        super().format_epilog(ctx, formatter)
        if said := self._from_file(ctx, (ctx.default_map or {}).__contains__):
            formatter.write(f"\n{said}\n")

    def _from_file(self, ctx: click.Context, counts: Callable[[str], bool]) -> str:
        """A line with the parameters that a file of defaults sets."""
        source = ctx.find_root().meta.get(SOURCE)
        names = [
            p.name.upper() if isinstance(p, click.Argument) else flag(p)
            for p in self.params
            if p.name and counts(p.name)
        ]
        return f"from {source}: {', '.join(names)}" if names else ""


def command(
    name: str | None = None, cls: type[Command] = Command
) -> Callable[[Callable[..., Any]], Command]:
    """Make a command of a function, as `click.command` does."""
    return click.command(name, cls=cls)


def _verbose() -> click.Option:
    def keep(ctx: click.Context, _: click.Parameter, count: int) -> None:
        ctx.meta[VERBOSE] = count

    return click.Option(
        ["-v", "--verbose"],
        count=True,
        expose_value=False,
        callback=keep,
        help="Say more on stderr: what is done; -vv: all that is known. So does TASKSTORE_LOG.",
    )


def _grouped(params: list[click.Parameter]) -> list[click.Parameter]:
    """The same, options in the order of the groups; each knows its group."""
    place = {
        word: (number, at)
        for number, words in enumerate(OPTION_GROUPS.values())
        for at, word in enumerate(words)
    }
    groups = [cloup.OptionGroup(title) for title in OPTION_GROUPS]
    for param in params:
        if isinstance(param, click.Option) and flag(param) in place:
            param.group = groups[place[flag(param)][0]]  # type: ignore[attr-defined]
    arguments = [param for param in params if isinstance(param, click.Argument)]
    options = [param for param in params if isinstance(param, click.Option)]
    last = (len(groups), 0)
    return [*arguments, *sorted(options, key=lambda option: place.get(flag(option), last))]
