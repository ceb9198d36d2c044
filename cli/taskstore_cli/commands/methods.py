"""`taskstore methods`"""

from __future__ import annotations

import click

from taskstore_cli.arguments.command import command
from taskstore_cli.arguments.common import json_option
from taskstore_cli.output.console import print_json


@command()
@click.argument("names", metavar="[METHOD]...", nargs=-1)
@json_option
def methods(names: tuple[str, ...], as_json: bool) -> None:
    """List the merge methods, with formula, options and paper.

    All of them are listed, or those that are named.
    """
    from dataclasses import asdict

    from taskstore.merging.methods import MERGES, PROCEDURES, procedure, split

    known = {**{name: method.INFO for name, method in MERGES.items()}, **PROCEDURES}
    chosen = dict.fromkeys(procedure(name) or split(name)[0] for name in names) or known
    infos = {name: known[name] for name in chosen}
    if as_json:
        print_json({"methods": {name: asdict(info) for name, info in infos.items()}})
        return
    for name, info in infos.items():
        click.echo(f"{click.style(name, bold=True)}: {info.title}, {info.paper}")
        click.echo(f"    {info.formula}")
        for option in info.options:
            value = (info.merging or {}).get(option.name, option.default)
            click.echo(f"    --option {option.name}={value:g}  {option.help}")
        needs = [f"{kind} of every model (taskstore measure)" for kind in info.statistics]
        if info.over:
            needs.append(f"works on {info.over}, or on another: {name}+ties")
        if info.least > 1:
            needs.append(f"at least {info.least} models")
        if info.most:
            needs.append(f"at most {info.most} model{'' if info.most == 1 else 's'}")
        if name in PROCEDURES:
            needs.append("tries models with your own evaluator: taskstore merge --eval CMD")
        for need in needs:
            click.echo(f"    {need}")
