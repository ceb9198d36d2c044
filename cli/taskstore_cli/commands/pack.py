"""`taskstore pack`"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from taskstore_cli.arguments.common import (
    jobs_option,
    json_option,
    level_option,
    output_option,
    quiet_option,
)
from taskstore_cli.arguments.evaluator import evaluator_options, make_bench
from taskstore_cli.arguments.family import make_options, masks_of, named
from taskstore_cli.arguments.method import (
    method_options,
    parse_options,
    parse_statistics,
    statistics_option,
)
from taskstore_cli.output.console import print_json, progress_bar

if TYPE_CHECKING:
    pass


optional_evaluator = partial(evaluator_options, required=False)


@click.command()
@click.argument("base", type=click.Path(path_type=Path))
@click.argument("finetunes", metavar="[NAME=]FINETUNE...", nargs=-1)
@output_option("STORE")
@click.option(
    "--lambda",
    "lambdas",
    multiple=True,
    metavar="[NAME=]X",
    help="Mask threshold, for all tasks or for one; repeatable. Higher keeps fewer "
    "weights of the multi-task model; 0.2 to 0.6 are usual.  [default: auto, the method's own: "
    "0.45 with lsq, 0.5 with others]",
)
@method_options()
@statistics_option
@click.option(
    "--masks",
    "mask_files",
    multiple=True,
    metavar="[NAME=]FILE.npy",
    help="Take the masks that the published TALL-masks code saved, for all tasks or for one; "
    "repeatable. With --method sum or ties, as they were made; --lambda is then just recorded.",
)
@click.option(
    "--tiers",
    default="mask",
    show_default=True,
    metavar="TIER,...",
    help="What is kept of each task. mask: what TALL-masks keep, about one bit per weight. rest: "
    "what is still missing, quantised; alone the most accuracy per byte while a family is small. "
    "exact: every bit, 7 to 8 bits per weight. Several build on each other: mask,exact.",
)
@click.option(
    "--residual",
    "residuals",
    multiple=True,
    metavar="[NAME=]BITS",
    help="About how many bits per weight the rest takes, for all tasks or for one; repeatable; "
    "adds that tier.  [default: 2 with --tiers rest]",
)
@level_option
@click.option(
    "--base",
    "base_mode",
    type=click.Choice(["embed", "reference"]),
    default="embed",
    show_default=True,
    help="Carry the base losslessly coded, or only where it is and its checksums.",
)
@jobs_option
@click.option(
    "--max-memory",
    default="2GiB",
    show_default=True,
    metavar="SIZE",
    help="Memory for blocks in flight.",
)
@click.option(
    "--target",
    "share",
    type=float,
    metavar="X",
    help="With --eval: the fewest bits per task that keep this share (0.99) of the fine-tune's "
    "score. The tier is rest.",
)
@click.option(
    "--max-error",
    type=float,
    metavar="X",
    help="The fewest bits per task at which |rebuilt - fine-tune|^2 is at most this share (0.05) "
    "of |task vector|^2. The tier is rest.",
)
@click.option("--anyway", is_flag=True, help="Write the best, where --target is not reached.")
@optional_evaluator
@click.option("--overwrite", is_flag=True, help="Replace a store that is there already.")
@json_option
@quiet_option
def pack(
    base: Path,
    finetunes: tuple[str, ...],
    target: Path,
    lambdas: tuple[str, ...],
    method: str,
    mask_files: tuple[str, ...],
    tiers: str,
    residuals: tuple[str, ...],
    level: str,
    extra: tuple[str, ...],
    statistics: tuple[str, ...],
    base_mode: str,
    jobs: int | None,
    max_memory: str,
    share: float | None,
    max_error: float | None,
    anyway: bool,
    template: str | None,
    key: str,
    timeout: float,
    journal: Path | None,
    scratch: Path | None,
    overwrite: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Pack BASE and its FINETUNEs into one store.

    Models are Hugging Face folders, single weight files, or PEFT LoRA adapter folders. A task is
    named after its folder unless NAME= stands before it. The store appears when it is whole.

    \b
    taskstore pack llama billing=runs/17/final legal=runs/22/final -o family
    """
    import taskstore
    from taskstore.packing import search_bits
    from taskstore_cli.output.store import print_aimed, print_report

    tasks = named(finetunes)
    options = make_options(
        lambdas,
        method=method,
        masks=masks_of(mask_files, tasks),
        tiers=tiers,
        residuals=residuals,
        level=level,
        merge_options=parse_options(extra),
        statistics=parse_statistics(statistics),
        base=base_mode,
        jobs=jobs,
        max_memory=max_memory,
        overwrite=overwrite,
    )
    if (share is None) != (template is None) or (share is not None and max_error is not None):
        raise click.UsageError("--target and --eval belong together, without --max-error")
    if share is not None and template is not None:
        own = journal or target.absolute().parent / f"{target.name}.target.jsonl"
        bench = make_bench(template, key, timeout, own, scratch, quiet or as_json)
        with progress_bar(quiet or as_json) as progress:
            aimed = search_bits.aim_at_score(
                base,
                tasks,
                target,
                share,
                bench,
                options=options,
                anyway=anyway,
                scratch=scratch,
                progress=progress,
            )
        if journal is None:
            own.unlink(missing_ok=True)
        print_aimed(aimed, as_json=as_json, quiet=quiet)
        return
    if max_error is not None:
        with progress_bar(quiet or as_json) as progress:
            aimed = search_bits.aim_at_error(
                base, tasks, target, max_error, options=options, progress=progress
            )
        print_aimed(aimed, as_json=as_json, quiet=quiet)
        return
    with progress_bar(quiet or as_json) as progress:
        report = taskstore.pack(base, tasks, target, options, progress)
    if as_json:
        print_json(report.to_dict())
    else:
        print_report(report, quiet=quiet)
