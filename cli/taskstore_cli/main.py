"""Groups the commands; the one place where errors become a line and an exit status.

0 done   1 bad input, damaged store, failed check   2 wrong usage   130 interrupted
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any, NoReturn

import click

from taskstore import TaskstoreError, __version__
from taskstore.errors import OptionError
from taskstore_cli.arguments.combinations import checked
from taskstore_cli.commands.evaluate import evaluate
from taskstore_cli.commands.info import info
from taskstore_cli.commands.load import load
from taskstore_cli.commands.measure import measure
from taskstore_cli.commands.merge import merge
from taskstore_cli.commands.methods import methods
from taskstore_cli.commands.pack import pack
from taskstore_cli.commands.report import report
from taskstore_cli.commands.revise import add, remove, retier
from taskstore_cli.commands.serve import serve
from taskstore_cli.commands.tune import tune
from taskstore_cli.commands.unpack import unpack
from taskstore_cli.commands.verify import verify


class Group(click.Group):
    """Turns what taskstore raises into one line on stderr."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except TaskstoreError as error:
            fail(str(error), 2 if isinstance(error, OptionError) else 1)
        except ModuleNotFoundError as error:
            if error.name != "torch":
                raise
            fail(f"{ctx.invoked_subcommand} needs PyTorch: pip install torch")
        except KeyboardInterrupt:
            click.echo("interrupted; nothing was written", err=True)
            sys.exit(130)
        except MemoryError:
            fail("out of memory; lower --jobs or --max-memory")
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(141)


def fail(message: str, status: int = 1) -> NoReturn:
    """Print one line on stderr and leave."""
    line = "".join(c if c.isprintable() else "?" for c in " ".join(message.split()))
    click.echo(f"{click.style('error:', fg='red', bold=True)} {line}", err=True)
    sys.exit(status)


def _terminate(_: int, __: Any) -> NoReturn:
    """SIGTERM ends like Ctrl-C, so that a partial folder is removed."""
    raise KeyboardInterrupt


@click.group(
    cls=Group,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="taskstore")
def main() -> None:
    """Pack a base model and its fine-tunes into one small store, and get every model back."""
    signal.signal(signal.SIGTERM, _terminate)


for command in (
    *(pack, tune, unpack, load, info, verify, evaluate, add, remove, retier),
    *(merge, methods, measure, report, serve),
):
    main.add_command(checked(command))
