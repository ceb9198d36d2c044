"""Options of the commands that merge: the method, its options, the statistics that it needs."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import click

from taskstore_cli.arguments.common import Word

F = TypeVar("F", bound=Callable[..., Any])


class MethodName(Word):
    """A merge method."""

    name = "method"

    def words(self, ctx: click.Context, incomplete: str) -> Iterable[str]:
        from taskstore.merging.methods import MERGES

        return MERGES


def method_options(default: str | None = "lsq") -> Callable[[F], F]:
    """--method, --option and --density, which is one of the options."""

    def add(command: F) -> F:
        command = click.option(
            "--density",
            metavar="X",
            help="The share of each task vector that the method keeps: --option density=X.",
        )(_with_density(command))
        command = click.option(
            "--option",
            "extra",
            multiple=True,
            metavar="K=V",
            help="A number that the method takes (density=0.2); repeatable.",
        )(command)
        return click.option(
            "--method",
            type=MethodName(),
            default=default,
            show_default=default is not None,
            help="How task vectors are merged; `taskstore methods` lists them.",
        )(command)

    return add


def _with_density(command: F) -> F:
    @functools.wraps(command)
    def run(*, density: str | None, extra: tuple[str, ...], **given: Any) -> Any:
        more = () if density is None else (f"density={density}",)
        return command(extra=(*extra, *more), **given)

    return run  # type: ignore[return-value]


statistics_option = click.option(
    "--statistics",
    multiple=True,
    metavar="NAME=FILE",
    help="What `taskstore measure` found out about a model, for methods that need it, and for "
    "rests below 2 bits, whose factors the gram of a few examples betters; repeatable. Without "
    "NAME=: about the base.",
)


def parse_statistics(words: tuple[str, ...]) -> dict[str, Path]:
    """NAME=FILE -> task, "" for the base -> file; raises OptionError."""
    from taskstore.errors import OptionError

    files: dict[str, Path] = {}
    for word in words:
        name, equals, file = word.partition("=")
        if not equals or "/" in name or Path(word).exists():
            name, file = "", word
        if name in files:
            raise OptionError(f"--statistics of {name or 'the base'!r} is given twice")
        files[name] = Path(file)
    return files


def by_file(words: tuple[str, ...]) -> dict[str, Path]:
    """NAME=FILE -> task -> file; raises OptionError."""
    from taskstore.errors import OptionError

    files = {name: Path(file) for name, _, file in (word.partition("=") for word in words)}
    if len(files) < len(words) or not all(
        name and str(file) != "." for name, file in files.items()
    ):
        raise OptionError(f"--examples {' '.join(words)}: give NAME=FILE once for each model")
    return files


def parse_options(words: tuple[str, ...]) -> dict[str, float]:
    """K=V -> K -> number; raises OptionError."""
    from taskstore.errors import OptionError

    values: dict[str, float] = {}
    for name, number in split_options(words).items():
        try:
            values[name] = float(number)
        except ValueError:
            raise OptionError(f"--option {name}: {number!r} is not a number") from None
    return values


def split_options(words: tuple[str, ...]) -> dict[str, str]:
    """K=V -> K -> V as it stands; raises OptionError."""
    from taskstore.errors import OptionError

    values: dict[str, str] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or name in values:
            problem = "is given twice" if equals else "is not K=V"
            raise OptionError(f"--option {word!r} {problem}")
        values[name] = value
    return values
