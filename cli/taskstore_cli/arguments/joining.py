"""The options of `add` and `replace`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from taskstore.executors import default_jobs
from taskstore_cli.arguments import common
from taskstore_cli.arguments.dry_run import dry_run_option
from taskstore_cli.arguments.family import by_task, parents_of, rest_bits_option
from taskstore_cli.arguments.method import parse_statistics, statistics_option
from taskstore_cli.arguments.sizes import parse_bytes

if TYPE_CHECKING:
    from taskstore.packing.changes.options import AddOptions


def joining_options(command: common.F) -> common.F:
    """Declare STORE, fine-tunes, and how they join it."""
    for option in reversed(
        (
            click.argument("store", type=common.StorePath()),
            click.argument("finetunes", nargs=-1, required=True, metavar="[NAME=]FINETUNE..."),
            click.option(
                "--tiers",
                metavar="TIER,...",
                help="What is kept of each, as of pack.  [default: as most tasks of STORE, bits by "
                "measure]",
            ),
            rest_bits_option("As of pack.  [default: what --max-error needs]"),
            statistics_option,
            click.option(
                "--max-error",
                metavar="X|GRADE",
                default="A",
                show_default=True,
                help="The largest error without data: what a mask does not keep gets a rest, of "
                "the fewest bits, and what no rest keeps is exact.",
            ),
            click.option(
                "--parent",
                "parents",
                multiple=True,
                metavar="NAME=OTHER|auto|none",
                help="Code an exact fine-tune against another task, of STORE or of these; "
                "repeatable. auto: against the nearest one, or the base. none: against the base.  "
                "[default: auto]",
            ),
            click.option("--keep-private", is_flag=True, help="As of pack."),
            click.option(
                "--repack",
                is_flag=True,
                help="Merge and mask the whole family anew; STORE is an archive (--tiers exact).",
            ),
            common.base_from_option,
            common.cluster_option,
            common.jobs_option,
            common.max_memory_option,
            common.cache_option,
            common.wait_option(),
            common.says_options,
            dry_run_option,
        )
    ):
        command = option(command)
    return command


def add_options(
    *,
    residuals: tuple[str, ...],
    parents: tuple[str, ...],
    statistics: tuple[str, ...],
    max_error: str,
    jobs: int | None,
    max_memory: str,
    **others: Any,
) -> AddOptions:
    """Read the options; raises OptionError or InputError for values that make no sense."""
    from taskstore.format.fidelity import largest_error
    from taskstore.packing.changes.options import AddOptions

    bits = by_task("--rest-bits", residuals)
    word, parent_of = parents_of(parents)
    return AddOptions(
        residual=bits.pop("", None),
        residuals=bits,
        statistics=parse_statistics(statistics),
        parent=word,
        parents=parent_of,
        max_error=largest_error(max_error),
        jobs=jobs or default_jobs(),
        max_memory=parse_bytes(max_memory),
        **others,
    )
