"""Declares the options that describe an evaluator, for `eval`, `tune`, `pack --target`, `merge`."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click
from click.core import ParameterSource

from taskstore_cli.arguments import defaults

if TYPE_CHECKING:
    from taskstore.evaluation.bench import Bench
    from taskstore.evaluation.command import Command

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Evaluator:
    """The options of an evaluator as they were given."""

    template: str | None
    key: str
    timeout: float
    journal: Path | None
    scratch: Path | None

    def command(self) -> Command:
        """What scores a model."""
        from taskstore.evaluation.command import Command

        return Command(self.template or "", self.key, self.timeout)

    def bench(self, journal: Path | None, *, silent: bool) -> Bench:
        """What scores the models of a store, and remembers their scores in `journal`."""
        from taskstore.evaluation.bench import Bench
        from taskstore.evaluation.journal import Journal

        label = f"{self.template} {self.key}"
        scratch, tell = self.scratch, say(silent)
        return Bench(self.command(), Journal(journal), label=label, scratch=scratch, say=tell)

    @contextmanager
    def journal_beside(self, target: Path, what: str) -> Iterator[Path]:
        """The journal; where none was given, one beside the target until the block is done.

        A target at an address has it in the cache of this machine.
        Nobody else writes the target or its journal meanwhile.
        """
        from taskstore.locations import publish
        from taskstore.locations.remote import mirror

        target = mirror.here(target)
        own = target.absolute().parent / f"{target.name}.{what}.jsonl"
        with publish.alone(target):
            yield self.journal or own
            if self.journal is None:
                own.unlink(missing_ok=True)


def say(silent: bool) -> Callable[[str], None]:
    """Prints a line on stderr, or nothing."""
    return lambda line: None if silent else click.echo(line, err=True)


def evaluator_options(
    *more: Callable[[Any], Any],
    required: bool = True,
    into: type[Evaluator] = Evaluator,
    several: bool = False,
) -> Callable[[F], F]:
    """Adds what an evaluator needs, and `more`; the command gets it as one object, `evaluator`.

    With `several` there may be more of them, which are the object's `others`.
    """

    def add(command: F) -> F:
        @functools.wraps(command)
        def gathered(**given: Any) -> Any:
            own = {name: given.pop(name) for name in into.__dataclass_fields__ if name in given}
            if several:
                own["template"], *others = own["template"] or (None,)
                own["others"] = tuple(_other(own, template) for template in others)
            if own.get("lm_eval") and not _is_typed("template"):
                own["template"] = None
            own |= _named(own["template"], searched=given.get("share") is not None)
            return command(**given, evaluator=into(**own))

        for option in reversed((*_options(required, several), *more)):
            gathered = option(gathered)
        return cast(F, gathered)

    return add


def _other(own: Mapping[str, Any], template: str) -> Evaluator:
    """One more evaluator; key and time limit are those of the first, unless it is a named one."""
    found = {name: own[name] for name in Evaluator.__dataclass_fields__}
    return Evaluator(**{**found, "template": template, **_named(template, searched=False)})


def _is_typed(name: str) -> bool:
    source = click.get_current_context().get_parameter_source(name)
    return source is ParameterSource.COMMANDLINE


def _named(template: str | None, *, searched: bool) -> dict[str, Any]:
    """What the file of defaults says of an evaluator that is named, or of the first for a search.

    What is typed goes before it.
    """
    ctx = click.get_current_context()
    evaluators = defaults.of(ctx).evaluators
    if template is None and searched:
        template = next(iter(evaluators), None)
    typed = [name for name in ("key", "timeout") if _is_typed(name)]
    found = {k: v for k, v in evaluators.get(template or "", {}).items() if k not in typed}
    if "timeout" in found:
        found["timeout"] = click.FLOAT.convert(found["timeout"], None, ctx)
    return found


def _options(required: bool, several: bool) -> Sequence[Callable[[Any], Any]]:
    return (
        click.option(
            "--eval",
            "template",
            required=required,
            multiple=several,
            metavar="CMD",
            help="Command that scores a model, with {model} and {task} where they go; its "
            "last line of output with a score counts: a JSON object, a number, or lm-eval's "
            "results (printed, or written below {out}).",
        ),
        click.option("--key", default="score", show_default=True, help="Member with the score."),
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
            help="Folder for one rebuilt model at a time.  [default: beside the store]",
        ),
    )
