"""`taskstore unpack` and `export`: write models of a store"""

from __future__ import annotations

import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from taskstore_cli.arguments import common
from taskstore_cli.arguments.command import command
from taskstore_cli.arguments.dry_run import dry_run_option
from taskstore_cli.output.console import Output, counted, print_json, size

if TYPE_CHECKING:
    from taskstore.store import Store


@command()
@click.argument("store", type=common.StorePath(), is_eager=True)
@click.argument("task", type=common.TaskName(), required=False)
@common.output_option("DIR", "Folder to write; - for one safetensors file to a pipe.")
@click.option("--all", "every", is_flag=True, help="Every task, each in DIR/TASK.")
@click.option("--base", is_flag=True, help="The base, bit for bit.")
@common.tier_option
@click.option("--adapter", is_flag=True, help="The PEFT adapter that TASK was, byte for byte.")
@click.option("--exact", is_flag=True, help="Refuse what is not the original bit for bit.")
@common.base_from_option
@click.option(
    "--shard-size",
    metavar="SIZE",
    help="Largest weight file.  [default: the original files where the store keeps them, else 5GB]",
)
@common.cluster_option
@common.jobs_option
@common.overwrite_option("a model folder that is there")
@common.wait_option()
@common.says_options
@dry_run_option
def unpack(
    store: Path,
    task: str | None,
    target: Path,
    every: bool,
    base: bool,
    tier: str | None,
    adapter: bool,
    exact: bool,
    base_from: Path | None,
    shard_size: str | None,
    jobs: int | None,
    overwrite: bool,
    out: Output,
) -> None:
    """Rebuild TASK of STORE as a Hugging Face folder.

    It gets weights, config, tokenizer and templates. Every file that is read and every tensor that
    is written is checked; where one is damaged, nothing is written.

    With -o - the weights alone go to standard output, as one safetensors file.
    """
    from taskstore.format.names import folder_of, plain
    from taskstore_cli.arguments.sizes import parse_bytes

    if (task is not None) + every + base != 1:
        raise click.UsageError("name one TASK, or give --all or --base")
    if adapter and (task is None or tier or shard_size):
        raise click.UsageError("--adapter goes with one TASK, without --tier and --shard-size")
    limit = None if shard_size is None else parse_bytes(shard_size)
    if exact and tier not in (None, "exact"):
        raise click.UsageError(f"--exact and --tier {tier} contradict each other")
    opened = common.opened(store, base_from)
    if exact:
        for name in opened.tasks if every else [task] if task else []:
            opened.check_exact(name)
    if str(target) == "-":
        if every or adapter or limit or out.as_json:
            raise click.UsageError(
                "-o - is one file of one model: leave --all, --adapter, --shard-size and --json out"
            )
        _to_standard_output(opened, task, tier, jobs, out)
        return
    with out.progress() as progress:
        write = opened.unpack_all if every else partial(opened.unpack, task, adapter=adapter)
        write(
            target,
            tier=tier,
            overwrite=overwrite,
            jobs=jobs,
            shard_bytes=limit,
            progress=progress,
        )
    files = sorted(p for p in target.rglob("*") if p.is_file())
    total = sum(p.stat().st_size for p in files)
    models = (
        {n: str(target / folder_of(n)) for n in opened.tasks}
        if every
        else {task or "": str(target)}
    )
    fidelity = {name or task or "base": opened.fidelity(name or task, tier) for name in models}
    best = {name: entry.all_tiers[-1:] for name, entry in opened.manifest.tasks.items()}
    tiers = {name: tier or "".join(best.get(name, ())) or None for name in fidelity}
    if out.as_json:
        names = {name or "base": path for name, path in models.items()}
        kept = {name: asdict(f) for name, f in fidelity.items()}
        print_json(
            {"models": names, "files": len(files), "bytes": total, "tiers": tiers, "fidelity": kept}
        )
    elif not out.quiet:
        what = counted(len(models), "task") if every else task or "the base"
        click.echo(f"{what} -> {target} ({counted(len(files), 'file')}, {size(total)}, checked)")
        for name, found in fidelity.items():
            of = f", tier {tiers[name]}" if tiers[name] else ""
            click.echo(f"{plain(name)}{of}: {found.words}")
    for name in models if not base else ():
        for path in opened.manifest.tasks[name or str(task)].left_out or ():
            click.echo(f"note: {path} of {name or task} was left out when it was packed", err=True)


def _to_standard_output(
    store: Store, task: str | None, tier: str | None, jobs: int | None, out: Output
) -> None:
    """What is said goes to stderr."""
    from taskstore.executors import threads
    from taskstore.format.names import plain
    from taskstore.store.unpack import UnpackOptions, stream

    if sys.stdout is None:  # a file that is opened then gets its number
        raise click.UsageError("standard output is closed; send the model to a program or a file")
    if sys.stdout.isatty():
        raise click.UsageError("a model is not for a terminal; send it to a program or a file")
    with out.progress() as progress:
        stream(store, task, 1, UnpackOptions(tier=tier, executor=threads(jobs)), progress)
    if not out.quiet:
        said = f"{plain(task or 'base')}: {store.fidelity(task, tier).words}"
        click.echo(said, err=True)


@command()
@click.argument("store", type=common.StorePath(), is_eager=True)
@click.argument("task", type=common.TaskName())
@common.output_option("DIR")
@click.option("--ollama", is_flag=True, help="A Modelfile, and the lines that make it a model.")
@common.tier_option
@common.base_from_option
@common.jobs_option
@common.overwrite_option("an export that is there")
@common.wait_option()
@common.says_options
@dry_run_option
def export(
    store: Path,
    task: str,
    target: Path,
    ollama: bool,
    tier: str | None,
    base_from: Path | None,
    jobs: int | None,
    overwrite: bool,
    out: Output,
) -> None:
    """Write TASK of STORE for another program.

    With --ollama DIR gets the model's folder and a Modelfile; the lines to type there, for
    llama.cpp's converter and for Ollama, are printed.

    \b
    taskstore export family billing -o billing-ollama --ollama
    """
    from taskstore.format.names import plain
    from taskstore.ollama import export_ollama

    if not ollama:
        raise click.UsageError("say for what: --ollama is the one program there is")
    opened = common.opened(store, base_from)
    with out.progress() as progress:
        found = export_ollama(
            opened, task, target, tier=tier, overwrite=overwrite, jobs=jobs, progress=progress
        )
    if out.as_json:
        print_json(found.to_dict())
    elif not out.quiet:
        click.echo(f"{plain(task)}: {found.fidelity.words}")
        click.echo(f"{task} -> {found.model} and {found.modelfile}; in {target}:")
        for line in found.lines:
            click.echo(f"  {line}")
        for caveat in found.caveats:
            click.echo(caveat)
