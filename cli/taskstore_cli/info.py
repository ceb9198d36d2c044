"""`taskstore info`"""

from __future__ import annotations

from pathlib import Path

import click

from taskstore_cli.console import StorePath, json_option, print_json


@click.command()
@click.argument("store", type=StorePath())
@json_option
def info(store: Path, as_json: bool) -> None:
    """Say what STORE holds: sizes by part, ratios, tasks, lambdas, densities, provenance.

    Reads the manifest alone; `verify` proves that the rest is there.
    """
    import taskstore
    from taskstore_cli.render import print_summary

    opened = taskstore.open(store)
    summary = opened.summary()
    if as_json:
        print_json({"store": str(store), **summary.to_dict()})
    else:
        print_summary(str(store), summary)
