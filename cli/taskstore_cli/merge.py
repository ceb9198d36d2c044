"""`taskstore merge`"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from taskstore_cli.console import (
    base_from_option,
    jobs_option,
    json_option,
    print_json,
    progress_bar,
    quiet_option,
    size,
)
from taskstore_cli.method import (
    method_options,
    parse_options,
    parse_statistics,
    statistics_option,
)
from taskstore_cli.pack import by_task, named

if TYPE_CHECKING:
    from taskstore.merging import MergeOptions, MergeReport
    from taskstore.progress import Callback


@click.command()
@click.argument("base", type=click.Path(path_type=Path), required=False)
@click.argument("models", metavar="[[NAME=]MODEL]...", nargs=-1)
@click.option(
    "-o",
    "--output",
    "target",
    required=True,
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Folder to write.",
)
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    metavar="YAML",
    help="What is merged, and how, as mergekit's YAML says it; instead of BASE, MODELs and what is "
    "said of them.",
)
@method_options(default=None)
@statistics_option
@click.option(
    "--alpha",
    metavar="A",
    help="Scale of the merged vector.  [default: the method's own, 1 for most]",
)
@click.option(
    "--weight",
    "weights",
    multiple=True,
    metavar="NAME=W",
    help="Weight of one model, may be negative; repeatable.  [default: 1]",
)
@click.option(
    "--dtype",
    type=click.Choice(["bf16", "f16", "f32"]),
    help="Of the merged model's floats.  [default: each tensor as in the base]",
)
@click.option(
    "--tokenizer-from",
    metavar="NAME",
    help="Config and tokenizer of this model, and its rows of a vocabulary that grew.  [default: "
    "those of the base]",
)
@click.option(
    "--private-from",
    metavar="NAME",
    help="Take this model's tensors that the base lacks, such as a head.  [default: none]",
)
@click.option(
    "--unrelated", is_flag=True, help="Merge models that do not look like fine-tunes of BASE, too."
)
@base_from_option
@jobs_option
@click.option(
    "--max-memory",
    default="2GiB",
    show_default=True,
    metavar="SIZE",
    help="Memory for blocks in flight.",
)
@click.option("--overwrite", is_flag=True, help="Replace a model that is there already.")
@json_option
@quiet_option
def merge(
    base: Path | None,
    models: tuple[str, ...],
    target: Path,
    config: Path | None,
    method: str | None,
    extra: tuple[str, ...],
    statistics: tuple[str, ...],
    alpha: str | None,
    weights: tuple[str, ...],
    dtype: str | None,
    tokenizer_from: str | None,
    private_from: str | None,
    unrelated: bool,
    base_from: Path | None,
    jobs: int | None,
    max_memory: str,
    overwrite: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Merge MODELs, fine-tunes of BASE, into one multi-task model.

    Models are Hugging Face folders, single weight files, or PEFT LoRA adapter folders. What cannot
    be merged (heads, rows of a grown vocabulary) is listed. The folder appears when it is whole.
    BASE may be a store; its tasks, or those that are named, are merged. A MODEL may be the folder
    of a training run for average, lawa, swa and warm: its checkpoints are.

    \b
    taskstore merge llama billing=runs/17/final legal=runs/22/final --method ties -o merged
    taskstore merge family --method consensus --alpha 0.4 -o merged
    taskstore merge --config merge.yaml -o merged
    """
    from taskstore.merging import MergeOptions
    from taskstore.options import parse_bytes
    from taskstore.parallel import default_jobs

    shared: dict[str, Any] = {
        "private_from": private_from,
        "unrelated": unrelated,
        "jobs": jobs or default_jobs(),
        "max_memory": parse_bytes(max_memory),
        "overwrite": overwrite,
        **({"dtype": dtype.upper()} if dtype else {}),
    }
    if config is not None:
        said = {"BASE": base, "--method": method, "--option": extra, "--alpha": alpha,
                "--statistics": statistics,
                "--weight": weights, "--tokenizer-from": tokenizer_from,
                "--base-from": base_from}  # fmt: skip
        if given := [name for name, value in said.items() if value]:
            raise click.UsageError(f"--config says what is merged; leave out {', '.join(given)}")
        with progress_bar(quiet or as_json) as progress:
            report = _run_recipe(config, target, shared, progress)
    elif base is None or method is None:
        raise click.UsageError("give BASE, MODELs and --method, or --config")
    else:
        options = MergeOptions(
            method=method,
            method_options=parse_options(extra),
            statistics=parse_statistics(statistics),
            alpha=None if alpha is None else by_task("--alpha", (alpha,))[""],
            weights=by_task("--weight", weights),
            tokenizer_from=tokenizer_from,
            **shared,
        )
        with progress_bar(quiet or as_json) as progress:
            report = _run(base, models, base_from, target, options, progress)
    if as_json:
        print_json(report.to_dict())
    else:
        print_merged(report, quiet=quiet)


def _run(
    base: Path,
    models: tuple[str, ...],
    base_from: Path | None,
    target: Path,
    options: MergeOptions,
    progress: Callback,
) -> MergeReport:
    """Of models, or of a store."""
    import taskstore
    from taskstore.merging import merge, merge_store
    from taskstore.packing import is_store

    if is_store(base):
        store = taskstore.open(base, base=base_from)
        return merge_store(store, target, options, list(models) or None, progress)
    return merge(base, named(models), target, options, progress)


def _run_recipe(
    config: Path, target: Path, changes: dict[str, Any], progress: Callback
) -> MergeReport:
    """Of what mergekit's YAML names."""
    from dataclasses import replace

    from taskstore.merging import merge
    from taskstore.merging.recipe import read

    recipe = read(config)
    options = replace(recipe.options, **changes)
    return merge(recipe.base, recipe.models, target, options, progress, recipe.notes)


def print_merged(report: MergeReport, *, quiet: bool) -> None:
    """One line, and what was not merged like the rest, on stderr even when quiet."""
    if not quiet:
        count = len(report.models)
        options = "".join(f", {name} {value:g}" for name, value in report.options.items())
        click.echo(
            f"{report.path}: {count} fine-tune{'' if count == 1 else 's'} of {report.base} merged "
            f"by {report.method}{options}, alpha {report.alpha:g}; {report.tensors} tensors, "
            f"{report.parameters:,} parameters, {size(report.bytes)}"
        )
    for what, why in report.notes.items():
        click.echo(f"{click.style('note:', fg='yellow', bold=True)} {what}: {why}", err=True)
