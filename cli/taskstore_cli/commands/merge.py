"""`taskstore merge`, and `methods`, which lists how"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from taskstore_cli.arguments import common
from taskstore_cli.arguments.command import command
from taskstore_cli.arguments.dry_run import dry_run_option
from taskstore_cli.arguments.family import by_task, named
from taskstore_cli.arguments.method import (
    by_file,
    method_options,
    parse_statistics,
    statistics_option,
)
from taskstore_cli.arguments.search import Search, asked, check, search_options
from taskstore_cli.output.console import Output, print_json

if TYPE_CHECKING:
    from taskstore.merging.search.origins import Origin


@command()
@click.argument("base", type=common.StorePath(), required=False)
@click.argument("models", metavar="[[NAME=]FINETUNE]...", nargs=-1)
@common.output_option("DIR", "Folder or address to write.")
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
    "--examples",
    multiple=True,
    metavar="NAME=FILE",
    help="With --method fw: examples of a model's task, as for `taskstore measure`; repeatable.",
)
@click.option(
    "--alpha",
    metavar="A",
    help="Scale of the merged vector. With --eval also a grid: auto (the published one), "
    "0:1:0.1, or 0.1,0.3; so is every --option.  [default: the method's own, 1 for most]",
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
    "--assets-from",
    metavar="NAME",
    help="Config, tokenizer and templates of this model, or of BASE.  [default: those of the base; "
    "what all models share goes before them]",
)
@click.option(
    "--private-from",
    metavar="NAME",
    help="Take the tensors of this model that the base lacks, such as a head, and its config.",
)
@click.option(
    "--unrelated", is_flag=True, help="Merge models that do not look like fine-tunes of BASE, too."
)
@common.base_from_option
@common.cluster_option
@common.jobs_option
@common.max_memory_option
@search_options
@common.overwrite_option("a model, and a plot, that is there")
@common.cache_option
@common.wait_option()
@common.says_options
@dry_run_option
def merge(
    base: Path | None,
    models: tuple[str, ...],
    target: Path,
    config: Path | None,
    method: str | None,
    extra: tuple[str, ...],
    statistics: tuple[str, ...],
    examples: tuple[str, ...],
    alpha: str | None,
    weights: tuple[str, ...],
    dtype: str | None,
    tokenizer_from: str | None,
    base_from: Path | None,
    jobs: int | None,
    max_memory: str,
    evaluator: Search,
    out: Output,
    **shared: Any,
) -> None:
    """Merge MODELs, fine-tunes of BASE, into one multi-task model.

    Models are Hugging Face folders, ids of its hub, addresses, single weight files, or PEFT LoRA
    adapter folders. What cannot be merged (heads, rows of a grown vocabulary) is listed. The folder
    appears when it is whole. BASE may be a store; its tasks, or those that are named, are merged. A
    MODEL may be the folder of a training run for average, lawa, swa and warm: its checkpoints are.

    With --eval, values are searched: every point of the grids is merged and scored, the best is
    kept. Use validation data: the score of a choice is no test score. Interrupted, the same command
    goes on where it was: scores are kept in --journal, by default DIR.merge.jsonl until it is done.

    \b
    taskstore merge llama billing=runs/17 legal=runs/22 --method ties -o merged
    taskstore merge family --method consensus --alpha 0.4 -o merged
    taskstore merge --config merge.yaml -o merged
    taskstore merge llama runs/17 runs/22 --method ties --alpha auto \\
        --eval 'python eval.py {model} {task} --split val' -o merged
    """
    from dataclasses import replace

    from taskstore.executors import default_jobs
    from taskstore.merging import MergeOptions
    from taskstore.merging.mergekit import recipe
    from taskstore.merging.mergekit.assembled import Assembled
    from taskstore.merging.methods import procedure
    from taskstore.merging.search import greedy_soup
    from taskstore.merging.search.grids import Grids
    from taskstore.merging.search.origins import Folders
    from taskstore_cli.arguments.sizes import parse_bytes
    from taskstore_cli.commands import merge_search
    from taskstore_cli.output.merge import print_merged

    shared |= {
        "jobs": jobs or default_jobs(),
        "max_memory": parse_bytes(max_memory),
        **({"dtype": dtype.upper()} if dtype else {}),
    }
    grids, searches = Grids(), ""
    if config is not None:
        said = {"BASE": base, "--method": method, "--option": extra, "--alpha": alpha,
                "--statistics": statistics, "--examples": examples,
                "--weight": weights, "--tokenizer-from": tokenizer_from,
                "--base-from": base_from}  # fmt: skip
        if given := [name for name, value in said.items() if value]:
            raise click.UsageError(f"--config says what is merged; leave out {', '.join(given)}")
        read = recipe.read(config)
        origin: Origin = (
            Assembled(read)
            if read.slices
            else Folders(read.base, read.models, read.notes, read.view)
        )
        options = replace(read.options, **shared)
    elif base is None or method is None:
        raise click.UsageError("give BASE, MODELs and --method, or --config")
    else:
        searches = procedure(method)
        origin = _origin(base, models, base_from, averaged=bool(searches))
        found = asked(method, alpha, extra, origin.count)
        grids = found.grids
        options = MergeOptions(
            method=greedy_soup.METHOD if searches else method,
            method_options={} if searches == "fw" else found.options,
            statistics=parse_statistics(statistics),
            alpha=found.alpha,
            weights=by_task("--weight", weights),
            tokenizer_from=tokenizer_from,
            **shared,
        )
    if examples and searches != "fw":
        raise click.UsageError("--examples does nothing without --method fw")
    check(evaluator, grids, searches, overwrite=options.overwrite)
    if evaluator.template is not None:
        merge_search.run(origin, target, options, grids, evaluator, searches, out)
        return
    if searches == "fw":
        merge_search.walk(origin, target, options, found.options, by_file(examples), out)
        return
    with out.progress() as progress:
        report = origin.merge(target, options, progress=progress)
    print_merged(report, out)


def _origin(
    base: Path, models: tuple[str, ...], base_from: Path | None, *, averaged: bool
) -> Origin:
    """Models, or those of a store; the checkpoints of runs that are averaged."""
    from taskstore.format.manifest_file import is_store
    from taskstore.merging.search.origins import Folders, Stored
    from taskstore.merging.training_runs import spread

    if is_store(base):
        return Stored(common.opened(base, base_from), models)
    if base_from is not None:
        raise click.UsageError(f"--base-from does nothing: {base} is no store; leave it out")
    if averaged:
        return Folders(base, *spread(named(models), "average"))
    return Folders(base, named(models))


@command()
@click.argument("names", metavar="[METHOD]...", nargs=-1)
@common.json_option
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
