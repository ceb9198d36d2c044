"""Declares, reads and checks the options of `merge` that search with an evaluator."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource

from taskstore_cli.arguments.command import Option
from taskstore_cli.arguments.evaluator import Evaluator, evaluator_options
from taskstore_cli.arguments.method import split_options

if TYPE_CHECKING:
    from taskstore.merging.search.grids import Grids

F = TypeVar("F", bound=Callable[..., Any])
DRAWN = ("cma", "swarm", "pareto")  # searches that draw their points
NAMED = re.compile(r"([A-Za-z]\w*)=(.+)", re.DOTALL)


@dataclass(frozen=True)
class Search(Evaluator):
    """The options of a search as they were given; `others` are more evaluators than the first."""

    others: tuple[Evaluator, ...]
    limit: int | None
    minimise: bool
    losses: tuple[str, ...]
    plot: Path | None
    search: str
    budget: int
    layers: int
    seed: int
    point: int | None

    @property
    def judges(self) -> list[tuple[str, Evaluator, bool]]:
        """Each evaluator with the name of its score, and whether that is a loss."""
        found: Sequence[Evaluator] = (self, *self.others)
        if len(found) == 1:
            return [("score", self, self.minimise)]
        named = []
        for number, judge in enumerate(found, 1):
            name, template = f"score {number}", judge.template or ""
            if match := NAMED.fullmatch(template):
                name, template = match.groups()
            loss = name in self.losses or (self.minimise and not self.losses)
            named.append((name, replace(judge, template=template), loss))
        return named


def search_options(command: F) -> F:
    """Adds what is in `Search`; the command gets it as `evaluator`."""
    limit = click.option(
        "--eval-limit",
        "limit",
        type=click.IntRange(min=1),
        metavar="N",
        help="Examples of an evaluation, for a CMD with {limit}. A search scores every model with "
        "a ninth of them, and goes on with the best third, twice.",
    )
    plot = click.option(
        "--plot",
        type=click.Path(path_type=Path, dir_okay=False),
        metavar="FILE",
        help="Draw the scores of one grid, of two, of a run, or a Pareto front, into an .html or "
        ".json file (Plotly).",
    )
    minimise = click.option(
        "--minimise",
        cls=Option,
        also=["--minimize"],
        is_flag=True,
        help="The score is a loss: the smallest is best.",
    )
    losses = click.option(
        "--loss",
        "losses",
        multiple=True,
        metavar="NAME",
        help="With several --eval NAME=CMD: this score is a loss, the others are not; repeatable.",
    )
    search = click.option(
        "--search",
        type=click.Choice(["grid", *DRAWN]),
        default="grid",
        show_default=True,
        help="grid: every value of --alpha and --option. cma: CMA-ES over alpha, continuous "
        "options and a weight per model; a number that is given is fixed, a grid says the ends. "
        "swarm: particles in weight space, by sum. pareto: as cma, with several --eval.",
    )
    budget = click.option(
        "--budget",
        type=click.IntRange(min=1),
        default=60,
        show_default=True,
        metavar="N",
        help="With --search cma, swarm or pareto, or --method auto: models that are scored.",
    )
    layers = click.option(
        "--layers",
        type=click.IntRange(min=0),
        default=0,
        metavar="G",
        help="With --search cma or pareto: weights of their own for each of G groups of layers.",
    )
    seed = click.option(
        "--seed",
        default=0,
        show_default=True,
        help="With --search cma, swarm or pareto, or --method auto: of what is drawn.",
    )
    point = click.option(
        "--point",
        type=click.IntRange(min=1),
        metavar="N",
        help="With --search pareto: write this point of the front, counted from the best by the "
        "first --eval.  [default: the one nearest to the best of all]",
    )
    more = (limit, search, budget, layers, seed, point, minimise, losses, plot)
    return evaluator_options(*more, required=False, into=Search, several=True)(command)


@dataclass(frozen=True)
class Asked:
    """What a command line asks for: numbers that are given, and values to search."""

    alpha: float | None
    options: Mapping[str, float]
    grids: Grids


def asked(method: str, alpha: str | None, extra: tuple[str, ...], models: int) -> Asked:
    """--alpha and --option, each a number or a grid; raises OptionError."""
    from taskstore.merging.methods import registry
    from taskstore.merging.search.grids import Grids, parse, published

    procedure = registry.procedure(method)
    published_alpha = () if procedure else registry.info_of(method).grid
    alphas = () if alpha is None else parse(alpha, "--alpha", published_alpha)
    options = {
        name: parse(text, f"--option {name}", published(name, models))
        for name, text in split_options(extra).items()
    }
    return Asked(
        alpha=alphas[0] if len(alphas) == 1 else None,
        options={name: values[0] for name, values in options.items() if len(values) == 1},
        grids=Grids(
            alphas if len(alphas) > 1 else (),
            {name: values for name, values in options.items() if len(values) > 1},
        ),
    )


def check(wanted: Search, grids: Grids, procedure: str, *, overwrite: bool) -> None:
    """Raise UsageError for options that do not go together, before any work is done."""
    from taskstore.merging.search import plot

    if procedure == "fw" and wanted.template is not None:
        raise click.UsageError("--method fw follows the loss of --examples; leave --eval out")
    if wanted.template is None and (grids.axes or procedure not in ("", "fw")):
        what = f"--method {procedure}" if procedure else "a grid"
        raise click.UsageError(f"{what} needs --eval, the command that scores a model")
    if procedure and wanted.search != "grid":
        raise click.UsageError(f"--method {procedure} is a search itself; leave --search out")
    if procedure and (grids.axes or wanted.plot):
        raise click.UsageError(f"--method {procedure} has no grid and no --plot")
    _check_evaluators(wanted)
    _check_used(wanted, procedure)
    if wanted.plot:
        axes = None if wanted.search in DRAWN else len(grids.axes)
        plot.check(wanted.plot, axes, overwrite=overwrite)


def _check_evaluators(wanted: Search) -> None:
    names = [name for name, _, _ in wanted.judges]
    if wanted.others and wanted.search != "pareto":
        raise click.UsageError(
            f"{len(names)} --eval make a Pareto front: add --search pareto, or give one"
        )
    if wanted.search == "pareto" and not wanted.others:
        raise click.UsageError("--search pareto needs two --eval or more; for one there is cma")
    if len({*names}) < len(names):
        raise click.UsageError(f"two --eval have one name: {', '.join(names)}")
    if unknown := [name for name in wanted.losses if name not in names]:
        raise click.UsageError(
            f"--loss {unknown[0]} is none of the scores, which are {', '.join(names)}; name one by "
            "--eval NAME=CMD"
        )
    for _, judge, _ in wanted.judges if wanted.template else ():
        if judge.command().takes_limit != (wanted.limit is not None):
            problem = (
                "--eval-limit needs {limit} in the command of --eval, where the number goes"
                if wanted.limit
                else "--eval has {limit}, the number of examples; say it by --eval-limit"
            )
            raise click.UsageError(problem)


def _check_used(wanted: Search, procedure: str) -> None:
    """What only some searches use."""
    uses = {
        "budget": (wanted.search in DRAWN or procedure == "auto", "cma, swarm or pareto"),
        "seed": (wanted.search in DRAWN or procedure == "auto", "cma, swarm or pareto"),
        "layers": (wanted.search in ("cma", "pareto"), "cma or pareto"),
        "point": (wanted.search == "pareto", "pareto"),
        "losses": (wanted.search == "pareto", "pareto"),
    }
    context = click.get_current_context()
    for name, (used, searches) in uses.items():
        typed = context.get_parameter_source(name) is ParameterSource.COMMANDLINE
        if typed and not used:
            flag = "--loss" if name == "losses" else f"--{name}"
            raise click.UsageError(f"{flag} does nothing without --search {searches}")
