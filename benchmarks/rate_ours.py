"""The same figures for the library's own stores: packed, read back, scored as in rate.py.

    python benchmarks/rate_ours.py --family vision4 --out ours.jsonl
    python benchmarks/rate_ours.py --out ours.jsonl --pack '--tiers mask --lambda 0.5'

Bits are those of the store's files of weights, headers and tables of chunks included, without base
and private tensors; manifest, card, configs and tokenizers are not counted, as for no baseline.
What `taskstore info` shows counts all of them; it stands beside, in `notes`. Every task is read
with Store.state_dict, so what is scored is what a user gets.
"""

from __future__ import annotations

import dataclasses
import shlex
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import torch
from rich.console import Console

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import taskstore
from benchmarks.rates import results, table
from benchmarks.rates.eval import KNOWN, Family, open_family
from benchmarks.rates.results import Result
from taskstore.format import names
from taskstore.packing.options import PackOptions

WIDTH = 110  # of the tables where the output is no terminal

# Arguments of `taskstore pack`; the value of --tiers names the line that a point is on.
TIERS = [
    "--tiers mask",
    "--tiers exact",
]
_FIELDS = {
    "lambda": "lam",
    "rest_bits": "residual",
}  # where PackOptions spells an argument otherwise


def options(arguments: str) -> PackOptions:
    """Arguments as on the command line, each with a value; raises ValueError."""
    words = shlex.split(arguments)
    if len(words) % 2:
        raise ValueError(f"{arguments!r} is not a list of options with one value each")
    known = {field.name for field in dataclasses.fields(PackOptions)}
    wanted: dict[str, Any] = {}
    for flag, value in zip(words[::2], words[1::2], strict=True):
        word = flag.removeprefix("--").replace("-", "_")
        name = _FIELDS.get(word, word)
        if name not in known:
            raise ValueError(f"{flag} is no option of pack with a value")
        wanted[name] = _value(value)
    return PackOptions(**wanted)


def line_of(chosen: PackOptions) -> str:
    """Name the line that a point is on."""
    return chosen.tiers or ",".join(chosen.tier_names)


def _value(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def counted(store: taskstore.Store) -> int:
    """Bytes of the files of weights that are neither the base's nor private."""
    files = store.manifest.files
    left_out = [names.BASE, *map(names.private_of, store.tasks)]
    skipped = {path for stem in left_out for path in names.of_stem(stem, files)}
    paths = [path for path in files if path.endswith(".safetensors") and path not in skipped]
    return sum(files[path].bytes for path in paths)


def measure(family: Family, arguments: str, chosen: PackOptions) -> Result:
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "store"
        taskstore.pack(family.base, family.folders, path, chosen)
        store = taskstore.open(path)
        bits = 8 * counted(store) / family.vectors.weights / len(family.tasks)
        scores = {
            task: family.score(task, family.vectors.flat(store.state_dict(task)))
            for task in family.tasks
        }
        shown = store.summary().bits_per_parameter_and_task
    return Result(
        family.name,
        line_of(chosen),
        arguments,
        family.limit,
        bits,
        scores,
        family.originals(),
        round(time.perf_counter() - began, 1),
        {"info": shown},
    )


@click.command()
@click.option("--family", "families", multiple=True, default=list(KNOWN), show_default=True)
@click.option("--pack", "packs", multiple=True, default=TIERS, show_default=True)
@click.option("--limit", type=int, help="Items per task, 0 for all.  [default: lm6 100, others 0]")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="JSON lines.")
@click.option("--threads", default=1, show_default=True)
def main(
    families: tuple[str, ...], packs: tuple[str, ...], limit: int | None, out: Path, threads: int
) -> None:
    """Pack, rebuild and score; print a table for each family."""
    torch.set_num_threads(threads)
    torch.set_grad_enabled(False)
    console = Console() if sys.stdout.isatty() else Console(width=WIDTH)
    try:
        wanted = {arguments: options(arguments) for arguments in packs}
        for word in families:
            family = open_family(word, limit, out.parent / "scores.jsonl")
            found = results.load(out)
            for arguments, chosen in wanted.items():
                if (family.name, line_of(chosen), arguments, family.limit) not in found:
                    measure(family, arguments, chosen).append(out)
            lines = [r for r in results.load(out).values() if r.family == family.name]
            console.print(table.make(family.name, sorted(lines, key=lambda r: r.bits)))
    except (OSError, ValueError, taskstore.TaskstoreError) as error:
        raise click.ClickException(str(error)) from error


if __name__ == "__main__":
    main()
