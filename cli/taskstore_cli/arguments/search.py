"""Declares, reads and checks the options of `merge` that search with an evaluator."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from taskstore_cli.arguments.command import Option
from taskstore_cli.arguments.evaluator import Evaluator, evaluator_options
from taskstore_cli.arguments.method import split_options

if TYPE_CHECKING:
    from taskstore.merging.search.grids import Grids

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Search(Evaluator):
    """The options of a search as they were given."""

    minimise: bool
    plot: Path | None
    search: str
    budget: int
    layers: int
    seed: int


def search_options(command: F) -> F:
    """Adds what is in `Search`; the command gets it as `evaluator`."""
    plot = click.option(
        "--plot",
        type=click.Path(path_type=Path, dir_okay=False),
        metavar="FILE",
        help="Draw the scores of one grid, of two, or of a run of cma, into an .html or .json file "
        "(Plotly).",
    )
    minimise = click.option(
        "--minimise",
        cls=Option,
        also=["--minimize"],
        is_flag=True,
        help="The score is a loss: the smallest is best.",
    )
    search = click.option(
        "--search",
        type=click.Choice(["grid", "cma"]),
        default="grid",
        show_default=True,
        help="grid: every value of --alpha and --option. cma: CMA-ES over alpha, continuous "
        "options and a weight per model; a number that is given is fixed, a grid says the ends.",
    )
    budget = click.option(
        "--budget",
        type=click.IntRange(min=1),
        default=60,
        show_default=True,
        metavar="N",
        help="With --search cma: models that are scored.",
    )
    layers = click.option(
        "--layers",
        type=click.IntRange(min=0),
        default=0,
        metavar="G",
        help="With --search cma: weights of their own for each of G groups of layers.",
    )
    seed = click.option(
        "--seed",
        default=0,
        show_default=True,
        help="With --search cma: of what is drawn.",
    )
    more = (search, budget, layers, seed, minimise, plot)
    return evaluator_options(*more, required=False, into=Search)(command)


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

    if wanted.template is None and (grids.axes or procedure):
        what = f"--method {procedure}" if procedure else "a grid"
        raise click.UsageError(f"{what} needs --eval, the command that scores a model")
    if procedure and wanted.search != "grid":
        raise click.UsageError(f"--method {procedure} is a search itself; leave --search out")
    if procedure and (grids.axes or wanted.plot):
        raise click.UsageError(f"--method {procedure} has no grid and no --plot")
    if wanted.plot:
        axes = None if wanted.search == "cma" else len(grids.axes)
        plot.check(wanted.plot, axes, overwrite=overwrite)
