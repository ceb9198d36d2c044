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
    from taskstore.merging.methods.composition import GRAMMAR, USUAL

    known = {**{name: method.INFO for name, method in MERGES.items()}, **PROCEDURES}
    chosen = dict[str, None]()
    for name in names:
        parts = [procedure(name)] if procedure(name) else [*reversed(split(name).names)]
        chosen |= dict.fromkeys(p for p in parts if p != USUAL or len(parts) == 1 or p in name)
    infos = {name: known[name] for name in chosen or known}
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
        if info.stage == "before":
            needs.append(f"stands before a method ({name}+ties); alone, before {USUAL}")
        if info.stage == "after":
            needs.append(f"comes after a method (ties+{name}, {name}+ties); alone, after {USUAL}")
        if info.whole:
            needs.append(f"memory: {info.memory}")
        if info.least > 1:
            needs.append(f"at least {info.least} models")
        if info.most:
            needs.append(f"at most {info.most} model{'' if info.most == 1 else 's'}")
        if name in PROCEDURES:
            needs.append("tries models with your own evaluator: taskstore merge --eval CMD")
        for need in needs:
            click.echo(f"    {need}")
    if not names:
        stages = {
            stage: ", ".join(name for name, info in infos.items() if info.stage == stage)
            for stage in ("before", "after")
        }
        click.echo(f"--method {GRAMMAR}, for example trust_region+wudi+lines")
        click.echo(f"    BEFORE: {stages['before']}")
        click.echo(f"    AFTER: {stages['after']}")
        click.echo(f"    METHOD: any other; without one, {USUAL}")
        click.echo("Memory is that of the blocks in flight, where nothing else is said.")
