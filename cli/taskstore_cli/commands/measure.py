"""`taskstore measure`"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from taskstore_cli.arguments import common
from taskstore_cli.arguments.command import Option, command
from taskstore_cli.arguments.dry_run import dry_run_option
from taskstore_cli.output.console import Output, counted, print_json, size
from taskstore_cli.output.options import in_options

if TYPE_CHECKING:
    from taskstore.statistics.driver import MeasureReport


@command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "--data",
    required=True,
    type=click.Path(path_type=Path),
    metavar="FILE.jsonl",
    help="Examples, one JSON object per line.",
)
@common.output_option("S.safetensors", "File to write.")
@click.option(
    "--kinds",
    "statistics",
    cls=Option,
    also=["--statistics"],
    default="fisher,gram,hessian",
    show_default=True,
    metavar="KIND,...",
    help="fisher: for Fisher merging; gram: for RegMean; hessian: for gradient matching.",
)
@click.option(
    "--limit",
    type=int,
    default=256,
    show_default=True,
    metavar="N",
    help="Use N examples, drawn where there are more.",
)
@click.option(
    "--labels",
    type=click.Choice(["auto", "exact", "sampled", "data"]),
    default="auto",
    show_default=True,
    help="y of the Fisher: the sum over all classes, drawn from the model, or the data's own. "
    "auto: exact for classifiers, sampled for language models.",
)
@click.option(
    "--samples",
    type=int,
    default=1,
    show_default=True,
    help="Draws per example (--labels sampled).",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Where drawing begins.")
@click.option(
    "--max-length",
    type=int,
    metavar="N",
    help="Cut longer examples to N tokens.  [default: 1024, or less if the model takes less]",
)
@click.option(
    "--batch",
    type=int,
    default=8,
    show_default=True,
    help="Examples of equal length that run together for Gram matrices.",
)
@click.option("--device", default="cpu", show_default=True, help="Where the model runs.")
@click.option(
    "--max-memory",
    metavar="SIZE",
    help="For weights, sums and Gram matrices; less takes more passes.  [default: what is free]",
)
@common.overwrite_option("a statistics file that is there")
@common.wait_option()
@common.says_options
@dry_run_option
def measure(
    model: Path,
    data: Path,
    target: Path,
    statistics: str,
    max_memory: str | None,
    overwrite: bool,
    out: Output,
    **measuring: Any,
) -> None:
    """Measure MODEL on examples, for methods that need statistics.

    Methods such as fisher and regmean weigh models by them. Use examples of the task that MODEL was
    tuned for, a few hundred. Records are {"prompt", "answer"}, {"messages"} or {"text"} for
    language models, {"text", "label"} for classifiers of text, {"image": [[...]], "label"} for
    those of images.

    \b
    taskstore measure runs/billing --data billing.jsonl -o billing.safetensors
    """
    from taskstore import extras

    extras.need("measure", "transformers", "torch")
    from taskstore.statistics.driver import measure as run
    from taskstore.statistics.options import MeasureOptions
    from taskstore_cli.arguments.sizes import parse_bytes

    options = MeasureOptions(
        statistics=tuple(word.strip() for word in statistics.split(",") if word.strip()),
        max_memory=parse_bytes(max_memory) if max_memory else None,
        **measuring,
    )
    with out.progress(examples=True) as progress:
        report = run(model, data, target, options, overwrite=overwrite, progress=progress)
    if out.as_json:
        print_json(report.to_dict())
    else:
        for warning in report.warnings:
            click.echo(f"{click.style('note:', fg='yellow')} {in_options(warning)}", err=True)
        if not out.quiet:
            click.echo(_line(report))


def _line(report: MeasureReport) -> str:
    y = {
        "": "",
        "exact": " (sum over all classes)",
        "sampled": " (y drawn from the model)",
        "data": " (y of the data)",
    }[report.about.labels]
    kinds = ", ".join(kind + y * (kind == "fisher") for kind in report.statistics)
    used = f"{report.about.examples} of {counted(report.lines, 'example')}"
    return f"{report.path}: {kinds} of {report.about.name} on {used}, {size(report.bytes)}"
