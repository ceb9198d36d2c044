"""`taskstore report`"""

from __future__ import annotations

from pathlib import Path

import click

from taskstore_cli.arguments import common
from taskstore_cli.arguments.command import command
from taskstore_cli.arguments.dry_run import dry_run_option
from taskstore_cli.output.console import Output, print_json, size


@command()
@click.argument("store", type=common.StorePath())
@click.argument("other", type=common.StorePath(), required=False)
@common.output_option("FILE", "HTML file to write.")
@click.option(
    "--vectors/--no-vectors",
    default=True,
    show_default=True,
    help="Lengths of the task vectors and angles between them. Of a store that "
    "does not record them, tasks with rests or exact tensors are rebuilt for it.",
)
@common.overwrite_option("a report that is there")
@common.wait_option()
@common.base_from_option
@common.jobs_option
@common.says_options
@dry_run_option
def report(
    store: Path,
    other: Path | None,
    target: Path,
    vectors: bool,
    overwrite: bool,
    base_from: Path | None,
    jobs: int | None,
    out: Output,
) -> None:
    """Show STORE on one HTML page, or compare two stores.

    OTHER is a store of the same base. The page shows fidelity and scores, sizes, masks, their
    overlap and task vectors; of two stores what is in each, bytes, fidelity, scores and tiers. The
    page needs no network and no other file. It reads well on a phone, in the dark and on paper.
    """
    from taskstore.analysis.page import write_page

    opened = common.opened(store, base_from)
    with out.progress() as progress:
        page = write_page(
            opened,
            target,
            other=other,
            vectors=vectors,
            overwrite=overwrite,
            jobs=jobs,
            progress=progress,
        )
    if out.as_json:
        print_json(page.to_dict())
    elif not out.quiet:
        shown = f"{store} and {other}" if other else f"{store}"
        click.echo(f"{shown} -> {target} ({size(page.bytes)})")
