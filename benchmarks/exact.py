"""Codings of fine-tunes against their base, bit for bit: size and speed, one core, side by side.

    python benchmarks/exact.py --family DIR --base base --tasks billing,legal

`deltas` is what an archive uses; `strides` and `steps` are what it used before; `ulp` codes the
multi-task model; XOR in byte planes is the scheme of ZipLLM's BitX, with the same zstd parameters;
the last sees the fine-tune alone. All code the same chunks of 2^18 elements, and every chunk is
decoded and compared. A second table has whole archives beside other packages (archives/rivals.py).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.archives import rivals
from benchmarks.common.family import open_family
from benchmarks.common.sides import HERE
from taskstore.format.codecs import stream
from taskstore.format.codecs.deltas import Deltas
from taskstore.format.section import decode, encode
from taskstore.format.tiers.rest import row_length
from taskstore.models import Checkpoint, open_checkpoint

CHUNK = 1 << 18
WIDTH = 110  # of the tables where the output is no terminal
Bits = NDArray[Any]


@dataclass
class Coding:
    """One way; `prepare` is XOR or nothing, and its own inverse given the base."""

    name: str
    codec: str
    prepare: Callable[[Bits, Bits], Bits]
    stored: int = 0
    encoding: float = 0.0
    decoding: float = 0.0

    def run(self, w0_N: Bits, w_N: Bits, columns: int, start: int) -> None:
        began = time.perf_counter()
        if self.codec == "deltas":
            coded = Deltas(columns, start % max(1, columns)).encode(w_N, w0_N)
            streams = [stream.store(one) for one in coded]
        else:
            streams = encode(self.codec, self.prepare(w0_N, w_N), w0_N)
        self.encoding += time.perf_counter() - began
        self.stored += sum(map(len, streams)) + 4 * len(streams)
        began = time.perf_counter()
        back_N = decode(self.codec, map(memoryview, streams), w_N.size, w_N.itemsize, w0_N)
        back_N = self.prepare(w0_N, back_N)
        self.decoding += time.perf_counter() - began
        if not np.array_equal(back_N, w_N):
            raise click.ClickException(f"{self.name} did not give the weights back")


def codings() -> list[Coding]:
    def itself(_: Bits, w_N: Bits) -> Bits:
        return w_N

    return [
        Coding("deltas (archives)", "deltas", itself),
        Coding("strides", "strides", itself),
        Coding("steps", "steps", itself),
        Coding("ulp, byte planes", "ulp", itself),
        Coding("XOR, byte planes", "planes", np.bitwise_xor),
        Coding("alone, byte planes", "rotated", itself),
    ]


def chunks(base: Checkpoint, task: Checkpoint) -> Iterator[tuple[Bits, Bits, int, int]]:
    """(W0, W, columns, start) of the 16-bit tensors that both have, chunk by chunk."""
    for name, info in task.tensors.items():
        if base.tensors.get(name) == info and info.dtype in ("BF16", "F16"):
            for start in range(0, info.numel, CHUNK):
                stop = min(start + CHUNK, info.numel)
                w0_N, w_N = (model.read(name, start, stop) for model in (base, task))
                yield w0_N, w_N, row_length(info.shape), start


@click.command()
@click.option("--family", type=click.Path(path_type=Path), required=True, help="Folder of models.")
@click.option("--base", default="base", show_default=True)
@click.option("--tasks", required=True, help="NAME,NAME,...")
@click.option("--repeat", default=3, show_default=True, help="The fastest counts.")
@click.option("--skip", default="", help=f"Leave out some of {','.join(rivals.TOOLS)}.")
@click.option("--work", type=click.Path(path_type=Path), default=HERE / ".data", help="Scratch.")
def main(family: Path, base: str, tasks: str, repeat: int, skip: str, work: Path) -> None:
    """Bits per parameter and speed of six codings; then archives beside other packages."""
    left_out = set(filter(None, skip.split(",")))
    if left_out - set(rivals.TOOLS):
        known = ",".join(rivals.TOOLS)
        raise click.BadParameter(f"{skip} is not some of {known}", param_hint="--skip")
    theta0 = open_checkpoint(family / base)
    rounds = []
    for _ in range(repeat):
        ways, parameters, nbytes = codings(), 0, 0
        for name in tasks.split(","):
            for w0_N, w_N, columns, start in chunks(theta0, open_checkpoint(family / name)):
                parameters, nbytes = parameters + w_N.size, nbytes + w_N.nbytes
                for way in ways:
                    way.run(w0_N, w_N, columns, start)
        rounds.append(ways)
    table = Table(
        title=f"{parameters / 1e6:,.1f}M parameters of {len(tasks.split(','))} fine-tunes"
    )
    for column in ("coding", "bits/parameter", "of 16 bits", "encode MB/s", "decode MB/s"):
        table.add_column(column, justify="left" if column == "coding" else "right")
    for ways_of_one in zip(*rounds, strict=True):
        one = ways_of_one[0]
        bits = 8 * one.stored / parameters
        table.add_row(
            one.name,
            f"{bits:.3f}",
            f"{bits / 16:.1%}",
            f"{nbytes / min(way.encoding for way in ways_of_one) / 1e6:,.0f}",
            f"{nbytes / min(way.decoding for way in ways_of_one) / 1e6:,.0f}",
        )
    console = Console() if sys.stdout.isatty() else Console(width=WIDTH)
    console.print(table)
    models = open_family(family.resolve(), base, tasks.split(","))
    rivals.show(models, work.resolve(), set(rivals.TOOLS) - left_out, console)


if __name__ == "__main__":
    main()
