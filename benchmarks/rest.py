"""Tier `rest` on the CPU: swaps beside a copy of the same bytes, and its chunks on one core.

    python benchmarks/rest.py --params 1e8 --bits 2

The model is synthetic and attached with two tasks. Chunks have 2^18 bf16 weights each, 64 of them,
so that they and their bases come from memory; every way must end with the same weights.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import click
import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import taskstore
from benchmarks.common import table
from benchmarks.common.lines import Cell, Line
from benchmarks.common.synthetic import task_names, write_family
from benchmarks.swapping import ways
from benchmarks.swapping.clock import Way, in_turn
from benchmarks.swapping.module import build, tensors_of
from taskstore.format.codecs import stream
from taskstore.format.codecs.levels import Levels, quantised
from taskstore.format.section import decode, plain
from taskstore.kernels import add_quantised, cpu
from taskstore.kernels.floats import to_float32
from taskstore.kernels.quantise import Quantised

CHUNK, CHUNKS, COLUMNS = 1 << 18, 64, 1024
Bits = NDArray[np.uint16]
Seconds = Mapping[str, Sequence[float]]


def swaps(work: Path, params: float, bits: float, repeat: int) -> tuple[int, Seconds]:
    """Weights of the model, and seconds of a swap and of a copy."""
    write_family(work / "family", params=params, tasks=2, dtype="bf16")
    tasks = {name: work / "family" / name for name in task_names(2)}
    options = taskstore.PackOptions(tiers="rest", residual=bits)
    taskstore.pack(work / "family" / "base", tasks, work / "store", options)
    files = sorted((work / "family" / "base").glob("*.safetensors"))
    module, other = build(files, "cpu"), build(files, "cpu")
    store, jobs = taskstore.open(work / "store"), torch.get_num_threads()
    with taskstore.attach(module, store, tier="rest", jobs=jobs) as attached:
        seconds = in_turn(
            [
                ways.swap("swap", attached, list(tasks)),
                ways.copy(tensors_of(module), tensors_of(other)),
            ],
            repeat,
            "cpu",
        )
        attached.verify()
    return sum(tensor.numel() for tensor in tensors_of(module)), seconds


class Chunks:
    """Chunks as they are stored, unpacked, and their base's weights."""

    def __init__(self, bits: float) -> None:
        random = np.random.default_rng(2024)
        w_N = (random.standard_normal(CHUNK) * 0.02).astype(np.float32)
        self.below = [(w_N.view(np.uint32) >> 16).astype(np.uint16) for _ in range(CHUNKS)]
        v_N = (random.standard_normal(CHUNK) * 0.001).astype(np.float32)
        codec = Levels(2.0 ** (2 - bits), COLUMNS)
        self.streams = [stream.store(one) for one in codec.encode(v_N.view(np.uint32), None)]
        self.vectors = [self.unpacked() for _ in range(CHUNKS)]
        self.live = np.zeros((4, CHUNKS, CHUNK), np.uint16)

    def unpacked(self) -> Quantised:
        return quantised(plain("levels", map(memoryview, self.streams), CHUNK, 4), CHUNK)

    def ways(self) -> Iterator[Way]:
        """Adding, and decoding and adding; each in one pass and through float32 values."""

        def long(v_N: NDArray[np.float32], below_N: Bits, w_N: Bits) -> None:
            np.copyto(w_N, cpu.add(to_float32(below_N, "BF16"), v_N, below_N, "BF16"))

        def add() -> None:
            for vector, below_N, w_N in zip(self.vectors, self.below, self.live[0], strict=True):
                add_quantised.add(vector, below_N, w_N, "BF16")

        def add_long() -> None:
            for vector, below_N, w_N in zip(self.vectors, self.below, self.live[1], strict=True):
                long(vector.values(), below_N, w_N)

        def load() -> None:
            for below_N, w_N in zip(self.below, self.live[2], strict=True):
                add_quantised.add(self.unpacked(), below_N, w_N, "BF16")

        def load_long() -> None:
            for below_N, w_N in zip(self.below, self.live[3], strict=True):
                v_N = decode("levels", map(memoryview, self.streams), CHUNK, 4)
                long(v_N.view(np.float32), below_N, w_N)

        for call in (add, add_long, load, load_long):
            yield Way(call.__name__, call)

    def agree(self) -> bool:
        return all(np.array_equal(self.live[0], other) for other in self.live[1:])


def line(what: str, seconds: Seconds, weights: int, ours: str, other: str, name: str) -> Line:
    def cell(way: str, name: str) -> Cell:
        nanoseconds = statistics.median(seconds[way]) / weights * 1e9
        return Cell(name, note=f"{nanoseconds:.2f} ns per weight")

    ratio = statistics.median(seconds[other]) / statistics.median(seconds[ours])
    return Line(what, cell(ours, "one pass"), cell(other, name), ratio, "as fast")


@click.command()
@click.option("--params", default=1e8, show_default=True, help="Of the model.")
@click.option("--bits", default=2.0, show_default=True, help="Per weight of the rest, about.")
@click.option("--repeat", default=5, show_default=True, help="Runs of each side.")
def main(params: float, bits: float, repeat: int) -> None:
    """Measure tier rest; every line is a ratio of two sides."""
    with tempfile.TemporaryDirectory() as work:
        weights, seconds = swaps(Path(work), params, bits, repeat)
    lines = [line("swap", seconds, weights, "swap", "copy", "copy of the same bytes")]
    chunks = Chunks(bits)
    seconds = in_turn(list(chunks.ways()), repeat, "cpu")
    if not chunks.agree():
        raise click.ClickException("the ways do not agree")
    far = "through float32"
    lines += [
        line("add, one core", seconds, CHUNK * CHUNKS, "add", "add_long", far),
        line("decode and add, one core", seconds, CHUNK * CHUNKS, "load", "load_long", far),
    ]
    title = f"Tier rest, {bits:g} bits, {weights / 1e6:,.0f}M bf16 weights"
    caption = f"Medians of {repeat}. Threads of swap and copy: {torch.get_num_threads()}."
    Console().print(table.make(lines, title, caption))


if __name__ == "__main__":
    main()
