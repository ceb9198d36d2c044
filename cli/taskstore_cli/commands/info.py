"""`taskstore info`"""

from __future__ import annotations

from pathlib import Path

import click

from taskstore_cli.arguments import common
from taskstore_cli.arguments.command import command
from taskstore_cli.arguments.common import StorePath, base_from_option, jobs_option, json_option
from taskstore_cli.output.console import print_json, progress_bar


@command()
@click.argument("store", type=StorePath())
@click.option(
    "--overlap", is_flag=True, help="Also count the masks: usage by layers, overlap of two tasks."
)
@click.option(
    "--vectors",
    is_flag=True,
    help="Also say how long the task vectors are, and the angles between them.",
)
@base_from_option
@jobs_option
@json_option
def info(
    store: Path,
    overlap: bool,
    vectors: bool,
    base_from: Path | None,
    jobs: int | None,
    as_json: bool,
) -> None:
    """Say what STORE holds, and how near it is to the originals.

    It shows sizes by part, ratios, tasks, lambdas, densities and provenance. It reads the manifest
    alone, unless --overlap or --vectors is given; `verify` proves that the rest is there.
    """
    from taskstore_cli.output.store import print_summary

    opened = common.opened(store, base_from)
    summary = opened.summary()
    found = None
    if overlap or vectors:
        from taskstore.analysis.overlap import measure

        with progress_bar(as_json) as progress:
            found = measure(opened, vectors=vectors, jobs=jobs, progress=progress)
    if as_json:
        counted = {"overlap": found.to_dict()} if found else {}
        print_json({"store": str(store), "version": opened.version, **summary.to_dict(), **counted})
        return
    print_summary(str(store), summary)
    click.echo(f"version {opened.version[:12]}; taskstore log lists what was done to the store")
    if found:
        from taskstore_cli.output.overlap import print_overlap

        print_overlap(found, vectors=vectors)
