"""Prints a merge for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from taskstore.locations.remote.mirror import address_of
from taskstore_cli.output.console import (
    Output,
    counted,
    print_json,
    size,
)
from taskstore_cli.output.options import in_options

if TYPE_CHECKING:
    from taskstore.merging import MergeReport


def print_merged(report: MergeReport, out: Output) -> None:
    """One line, and what was not merged like the rest, on stderr even when quiet."""
    if out.as_json:
        print_json(report.to_dict())
        return
    if not out.quiet:
        options = "".join(f", {name} {value:g}" for name, value in report.options.items())
        of = f"{counted(len(report.models), 'fine-tune')} of {report.base}"
        holds = f"{counted(report.tensors, 'tensor')}, {counted(report.parameters, 'parameter')}"
        click.echo(
            f"{address_of(report.path) or report.path}: {of} merged by {report.method}{options}, "
            f"alpha {report.alpha:g}; "
            f"{holds}, {size(report.bytes)}"
        )
    for what, why in report.notes.items():
        click.echo(
            f"{click.style('note:', fg='yellow', bold=True)} {what}: {in_options(why)}", err=True
        )
