"""`taskstore pack`"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from taskstore_cli.arguments import combinations, common
from taskstore_cli.arguments.command import Option, command
from taskstore_cli.arguments.dry_run import dry_run_option
from taskstore_cli.arguments.evaluator import Evaluator, evaluator_options
from taskstore_cli.arguments.family import (
    make_options,
    named,
    parent_options,
    rest_bits_option,
)
from taskstore_cli.arguments.losses import overwrite_store_option
from taskstore_cli.arguments.method import method_options, statistics_option
from taskstore_cli.arguments.parts import PartOf
from taskstore_cli.output.console import Output


@command()
@common.base_argument
@click.argument("finetunes", metavar="[NAME=]FINETUNE...", nargs=-1)
@common.output_option("STORE", "Folder or address to write.", also=["--to"])
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
    metavar="TIER,...",
    help="What is kept of each task. auto: what it needs for grade A (docs/fidelity.md), a rest of "
    "the fewest bits, or masks where they do and are smaller; auto:B or auto:0.04 takes a larger "
    "error, and fewer bits. mask: what TALL-masks keep, about one bit per weight. rest: what is "
    "missing, quantised. exact: every bit, 7 to 8 bits per weight. Several build on each other: "
    "mask,exact. Without it: auto, but mask with options of masks, and rest with --rest-bits X.",
    show_default=True,
)
@rest_bits_option(
    "About how many bits per weight the rest takes, for all tasks or for one; repeatable; "
    "adds that tier.  [default: 2 with --tiers rest, what is needed with auto]",
)
@common.level_option
@parent_options
@click.option(
    "--base-mode",
    cls=Option,
    also=["--base"],
    type=click.Choice(["embed", "reference"]),
    default="embed",
    show_default=True,
    help="Carry the base losslessly coded, or only where it is and its checksums.",
)
@click.option(
    "--keep-private",
    is_flag=True,
    help="Also take tensors of another shape than the base's, and ones without elements.",
)
@click.option(
    "--part",
    type=PartOf(),
    metavar="I/N",
    help="Code one of N parts, for an array of jobs on machines that share a disk or a bucket; "
    "STORE.parts holds them until `taskstore seal STORE` makes the store (docs/cluster.md).",
)
@click.option(
    "--cluster",
    metavar="auto|HOST:PORT",
    help="Pack on a Ray cluster whose machines share a disk, or a bucket that the store is for "
    "(extra ray); auto: the one of this machine.",
)
@click.option(
    "--resume", is_flag=True, help="With --cluster: take up the parts of a run that died."
)
@common.jobs_option
@common.max_memory_option
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
    metavar="X|GRADE",
    help="The same as --tiers auto:X: weight error + 0.2 |1 - projection| is at most X (0.03), or "
    "of a grade: A (at most 0.030), B (0.055); docs/fidelity.md.",
)
@click.option("--anyway", is_flag=True, help="Write the best, where --target is not reached.")
@evaluator_options(required=False)
@common.cache_option
@common.wait_option()
@common.says_options
@dry_run_option
@overwrite_store_option("a store that is there")
def pack(
    base: Path,
    finetunes: tuple[str, ...],
    target: Path,
    share: float | None,
    max_error: str | None,
    anyway: bool,
    part: tuple[int, int] | None,
    cluster: str | None,
    resume: bool,
    evaluator: Evaluator,
    out: Output,
    **packing: Any,
) -> None:
    """Pack BASE and its FINETUNEs into one store.

    Models are Hugging Face folders, ids of its hub, addresses, single weight files, or PEFT LoRA
    adapter folders; with --tiers exact the folder of a training run stands for its checkpoints. A
    task is named after its folder unless NAME= stands before it. The store appears when it is
    whole.

    \b
    taskstore pack llama billing=runs/17/final legal=runs/22/final -o family
    """
    import taskstore
    from taskstore.packing import search_bits
    from taskstore_cli.output.parts import print_part
    from taskstore_cli.output.store import print_aimed, print_report

    tasks = named(finetunes)
    tiers, why = combinations.tiers_of(click.get_current_context())
    options = make_options(tasks, **packing | {"tiers": tiers})
    if (share is None) != (evaluator.template is None) or (
        share is not None and max_error is not None
    ):
        raise click.UsageError("--target and --eval belong together, without --max-error")
    if share is not None:
        with (
            evaluator.journal_beside(target, "target") as journal,
            out.progress() as progress,
        ):
            aimed = search_bits.aim_at_score(
                base,
                tasks,
                target,
                share,
                evaluator.bench(journal, silent=out.silent),
                options=options,
                anyway=anyway,
                scratch=evaluator.scratch,
                progress=progress,
            )
        print_aimed(aimed, out)
        return
    if part is not None:
        from taskstore.packing.parts.driver import pack_part

        with out.progress() as progress:
            done = pack_part(base, tasks, target, *part, options, progress)
        print_part(done, f"{part[0]}/{part[1]}", target, out)
        return
    with out.progress() as progress:
        if cluster is not None:
            from taskstore.packing.parts.driver import pack_on

            report = pack_on(cluster, base, tasks, target, options, progress, resume=resume)
        else:
            report = taskstore.pack(base, tasks, target, options, progress)
    print_report(replace(report, notes=[*why, *report.notes]), out)


@command()
@click.argument("target", metavar="STORE", type=common.StorePath())
@common.jobs_option
@common.max_memory_option
@common.overwrite_option("a store that is there")
@common.wait_option()
@common.says_options
@dry_run_option
def seal(target: Path, jobs: int | None, max_memory: str, overwrite: bool, out: Output) -> None:
    """Make STORE of the parts that several machines packed.

    The parts are those of `pack --part`, and are removed then. Models and options are
    theirs. The same bytes come out as of one machine.

    \b
    taskstore pack llama billing=runs/17/final --part 3/16 --to family
    taskstore seal family
    """
    from taskstore.packing.parts.driver import seal as run
    from taskstore_cli.output.store import print_report

    options = make_options(jobs=jobs, max_memory=max_memory, overwrite=overwrite, method="lsq")
    with out.progress() as progress:
        report = run(target, options, progress)
    print_report(report, out)
