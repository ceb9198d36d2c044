"""The commands, in groups; the one place where errors become a line and an exit status.

0 done   1 bad input, damaged store, failed check   2 wrong usage   130 interrupted
"""

from __future__ import annotations

import dataclasses
import errno
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import click
import cloup
from cloup.formatting import HelpSection

from taskstore import TaskstoreError, __version__
from taskstore.errors import OptionError
from taskstore_cli.arguments import defaults
from taskstore_cli.arguments.combinations import checked
from taskstore_cli.arguments.command import SOURCE
from taskstore_cli.commands.evaluate import evaluate
from taskstore_cli.commands.hub import pull, push
from taskstore_cli.commands.info import info, verify
from taskstore_cli.commands.load import load
from taskstore_cli.commands.measure import measure
from taskstore_cli.commands.merge import merge, methods
from taskstore_cli.commands.pack import pack, seal
from taskstore_cli.commands.report import report
from taskstore_cli.commands.revise import add, remove, replace, retier
from taskstore_cli.commands.route import route
from taskstore_cli.commands.serve import serve
from taskstore_cli.commands.tasks import copy, gc, log, rename, repair
from taskstore_cli.commands.tune import tune
from taskstore_cli.commands.unpack import export, unpack
from taskstore_cli.output.options import in_options


@dataclass(frozen=True)
class Part:
    """A group of commands: what one does with them, an example, and where more is written."""

    title: str
    example: str
    page: str
    commands: tuple[click.Command, ...]


# Every command stands in one of these; `taskstore --help` shows them in this order.
PARTS = (
    Part(
        "Make a store",
        "taskstore pack llama billing=runs/17/final legal=runs/22/final -o family",
        "docs/choosing.md",
        (pack, seal, tune),
    ),
    Part(
        "Use its models",
        "taskstore unpack family billing -o billing",
        "docs/tutorial.md",
        (unpack, load, export),
    ),
    Part(
        "Change a store",
        "taskstore add family chat=runs/31/final",
        "docs/archive.md",
        (add, replace, rename, remove, retier, copy, gc),
    ),
    Part(
        "Look into a store",
        "taskstore eval family --eval 'python eval.py {model} {task}'",
        "docs/fidelity.md",
        (info, log, verify, repair, evaluate, report),
    ),
    Part(
        "Share a store",
        "taskstore push family org/family --private",
        "docs/hub.md",
        (push, pull),
    ),
    Part(
        "Merge models into one",
        "taskstore merge llama runs/17/final runs/22/final --method ties -o merged",
        "docs/merging.md",
        (merge, methods, measure),
    ),
    Part(
        "Serve with vLLM",
        "taskstore serve family --tasks billing,legal",
        "docs/serving.md",
        (serve, route),
    ),
)


class Group(cloup.Group):
    """Turns what click and taskstore raise into one line on stderr."""

    def main(  # type: ignore[override]
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = "taskstore",
        *,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        if not standalone_mode:
            return super().main(args, prog_name, standalone_mode=False, **extra)
        try:
            sys.exit(super().main(args, prog_name, standalone_mode=False, **extra))
        except click.exceptions.NoArgsIsHelpError as error:
            error.show()
            sys.exit(error.exit_code)
        except click.ClickException as error:
            fail(_usage(error), error.exit_code)
        except click.Abort:
            fail("not confirmed; nothing was changed")

    def make_commands_help_section(
        self, ctx: click.Context, section: cloup.Section
    ) -> HelpSection | None:
        found = super().make_commands_help_section(ctx, section)
        part = next((part for part in PARTS if part.title == section.title), None)
        if found is None or part is None:
            return found
        return dataclasses.replace(
            found, heading=f"{part.title} ({part.page})", help=f"\b\n$ {part.example}"
        )

    def invoke(self, ctx: click.Context) -> Any:
        try:
            found = defaults.read(Path.cwd(), self.commands)
            ctx.meta.update({defaults.META: found, SOURCE: found.source})
            ctx.default_map = dict(found.by_command)
            return super().invoke(ctx)
        except TaskstoreError as error:
            wrong = isinstance(error, OptionError)
            message = in_options(str(error))
            if wrong and (source := ctx.meta.get(SOURCE)) and source not in message:
                message += f"; options that are not typed are from {source}"
            fail(message, 2 if wrong else 1)
        except ModuleNotFoundError as error:
            from taskstore.extras import lacking

            if (missing := lacking(error, str(ctx.invoked_subcommand))) is None:
                raise
            fail(str(missing))
        except KeyboardInterrupt:
            click.echo("interrupted; nothing was written", err=True)
            sys.exit(130)
        except MemoryError:
            fail("out of memory; lower --jobs or --max-memory")
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(141)
        except OSError as error:
            if error.errno != errno.ENOSPC or error.filename is not None:
                raise
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            fail("no space left on the disk that the output goes to; what was printed is cut off")


def fail(message: str, status: int = 1) -> NoReturn:
    """Print one line on stderr and leave."""
    line = "".join(c if c.isprintable() else "?" for c in " ".join(message.split()))
    click.echo(f"{click.style('error:', fg='red', bold=True)} {line}", err=True)
    sys.exit(status)


def _usage(error: click.ClickException) -> str:
    """What click says, as our own errors are said: no capital, no full stop, and the way out."""
    said = error.format_message().rstrip(".")
    context = error.ctx if isinstance(error, click.UsageError) else None
    help = f"; see `{context.command_path} --help`" if context else ""
    return said[:1].lower() + said[1:] + help


def _terminate(_: int, __: Any) -> NoReturn:
    """SIGTERM ends like Ctrl-C, so that a partial folder is removed."""
    raise KeyboardInterrupt


@click.group(
    "taskstore",
    cls=Group,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "max_content_width": 100,
        "align_sections": True,
    },
)
@click.version_option(__version__, prog_name="taskstore")
def main() -> None:
    """Pack a base model and its fine-tunes into one small store, and get every model back."""
    signal.signal(signal.SIGTERM, _terminate)


for part in PARTS:
    main.section(part.title, *map(checked, part.commands))

if __name__ == "__main__":
    main()
