"""What `eval`, `tune` and `pack --target` share: the options that describe an evaluator."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from taskstore.evaluation.bench import Bench

F = TypeVar("F", bound=Callable[..., Any])


def evaluator_options(command: F, required: bool = True) -> F:
    """What the commands need to know of the evaluator."""
    for option in reversed(
        (
            click.option(
                "--eval",
                "template",
                required=required,
                metavar="CMD",
                help="Command that scores a model, with {model} and {task} where they go; its "
                "last line of output with a score counts: a JSON object, a number, or lm-eval's "
                "results (printed, or written below {out}).",
            ),
            click.option(
                "--key", default="score", show_default=True, help="Member with the score."
            ),
            click.option(
                "--timeout",
                default=3600.0,
                show_default=True,
                help="Seconds that one run may take.",
            ),
            click.option(
                "--journal",
                type=click.Path(path_type=Path, dir_okay=False),
                help="File of scores; one that is there is gone on with.",
            ),
            click.option(
                "--scratch",
                type=click.Path(path_type=Path, exists=True, file_okay=False),
                help="Folder for one rebuilt model at a time.  [default: the system's]",
            ),
        )
    ):
        command = option(command)
    return command


def make_bench(
    template: str,
    key: str,
    timeout: float,
    journal: Path | None,
    scratch: Path | None,
    silent: bool,
) -> Bench:
    from taskstore.evaluation.bench import Bench
    from taskstore.evaluation.command import Command
    from taskstore.evaluation.journal import Journal

    def say(line: str) -> None:
        if not silent:
            click.echo(line, err=True)

    command = Command(template, key, timeout)
    return Bench(command, Journal(journal), label=f"{template} {key}", scratch=scratch, say=say)
