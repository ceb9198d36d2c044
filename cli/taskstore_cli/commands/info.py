"""`taskstore info` and `verify`: look into a store"""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path

import click

from taskstore_cli.arguments import common
from taskstore_cli.arguments.command import command
from taskstore_cli.arguments.common import StorePath, base_from_option, jobs_option, json_option
from taskstore_cli.output.console import Output, counted, print_json, progress_bar, show, stdout


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


@command()
@click.argument("store", type=common.StorePath())
@click.option(
    "--deep",
    is_flag=True,
    help="Also rebuild every tensor of every model against its recorded checksum.",
)
@common.base_from_option
@common.cluster_option
@common.jobs_option
@common.says_options
def verify(store: Path, deep: bool, base_from: Path | None, jobs: int | None, out: Output) -> None:
    """Prove that every byte of STORE is as packed.

    The exit status is 1 where one is not. A task that is an approximation stays one: the table says
    how near it is to its fine-tune.
    """
    from taskstore.format.names import plain
    from taskstore.store.verify import verify as run
    from taskstore_cli.output.store import KEPT, fidelity_table

    opened = common.opened(store, base_from)
    with out.progress() as progress:
        report = run(opened, deep=deep, jobs=jobs, progress=progress)
    summary = opened.summary()
    if out.as_json:
        kept = {task.name: asdict(task.fidelity) for task in summary.tasks}
        below = {
            task.name: {tier: asdict(found) for tier, found in task.lower_fidelity.items()}
            for task in summary.tasks
        }
        print_json({**report.to_dict(), "fidelity": kept, "lower_fidelity": below})
    else:
        for problem in report.problems:
            click.echo(f"{click.style('damaged:', fg='red', bold=True)} {problem}", err=True)
        if report.lost:
            tasks = ", ".join(map(plain, report.lost))
            way_out = f"mend it: taskstore repair {store} --from A_COPY_OR_AN_ORIGINAL"
            click.echo(f"this costs {tasks}; {way_out}", err=True)
        for path in report.unlisted if not out.quiet else ():
            click.echo(f"note: {plain(path)} is not part of the store", err=True)
        for path in report.left_out if not out.quiet else ():
            click.echo(f"note: {plain(path)} was left out when it was packed", err=True)
        if report.ok and not out.quiet:
            rebuilt = f", {counted(report.tensors, 'tensor')} rebuilt" if deep else ""
            files = counted(report.files, "file")
            click.echo(f"{store}: every byte is as packed: {files}{rebuilt}")
            show(stdout(), KEPT, fidelity_table(summary))
    if not report.ok:
        sys.exit(1)
