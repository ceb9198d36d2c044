"""Sparse changes and adapters: whole archives of them, beside what they cost at least.

    python benchmarks/sparse.py --base DIR

A share of the base's 16-bit weights moves by one step up or down; the entropy of that is H(share) +
share bits per weight. The archive holds that one task, and its file is counted whole. Beside it is
`steps`, which archives used before. Then updates of low rank that were merged into all matrices, by
their share of the norm; the least is what the factors take with numbers of 16 bits, since they tell
every weight. Last an adapter of each rank: its weight file and the task's in an archive.
"""

from __future__ import annotations

import json
import math
import sys
import tempfile
from pathlib import Path

import click
import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from safetensors.torch import load_file, save_file

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import taskstore
from taskstore.format.section import encode

SHARES = (0.001, 0.01, 0.05, 0.2)
RANKS = (8, 64)
UPDATES = ((8, 0.02), (8, 0.1), (32, 0.02), (32, 0.1))  # rank and share of the norm
CHUNK = 1 << 18
EXACT = taskstore.PackOptions(tiers="exact", base="reference")
State = dict[str, torch.Tensor]


def moved(base: State, share: float) -> State:
    """Return the weights, of which a share is one float further up or down."""
    draw = torch.Generator().manual_seed(0)
    state = {}
    for name, weight in base.items():
        bits = weight.view(torch.int16)
        step = torch.randint(0, 2, bits.shape, generator=draw, dtype=torch.int16) * 2 - 1
        chosen = torch.rand(bits.shape, generator=draw) < share
        state[name] = torch.where(chosen, bits + step, bits).view(weight.dtype)
    return state


def merged(base: State, rank: int, share: float) -> tuple[State, int]:
    """Return the weights with an update of each matrix, rounded once, and its factors' numbers."""
    draw, state, numbers = torch.Generator().manual_seed(0), dict(base), 0
    for name, weight in base.items():
        if weight.ndim == 2:
            rows, columns = weight.shape
            left = torch.randn(rows, rank, generator=draw)
            update = left @ torch.randn(rank, columns, generator=draw)
            update *= share * weight.float().norm() / update.norm()
            state[name] = (weight.float() + update).to(weight.dtype)
            numbers += rank * (rows + columns)
    return state, numbers


def by_steps(base: State, state: State) -> int:
    """Return the bytes of all tensors coded by `steps`."""
    total = 0
    for name, weight in state.items():
        w0_N, w_N = (
            w.contiguous().view(torch.int16).numpy().reshape(-1).view(np.uint16)
            for w in (base[name], weight)
        )
        for at in range(0, w_N.size, CHUNK):
            total += sum(map(len, encode("steps", w_N[at : at + CHUNK], w0_N[at : at + CHUNK])))
    return total


def written(base: Path, state: State) -> int:
    """Write a task's weights; return the bytes of its files in an archive."""
    with tempfile.TemporaryDirectory() as name:
        task = Path(name) / "task"
        task.mkdir()
        save_file(state, task / "model.safetensors", metadata={"format": "pt"})
        return packed(base, task, Path(name))


def packed(base: Path, task: Path, scratch: Path) -> int:
    """Return the bytes of the task's files in an archive, which is verified."""
    store = scratch / "store"
    taskstore.pack(base, {"task": task}, store, EXACT)
    assert taskstore.verify(store, deep=True).ok
    return sum(path.stat().st_size for path in (store / "tasks").rglob("*.safetensors"))


def adapter(base: State, rank: int, folder: Path) -> int:
    """Write a LoRA adapter of all matrices; return the bytes of its weight file."""
    draw, state = torch.Generator().manual_seed(0), State()
    for name, weight in base.items():
        if weight.ndim == 2 and "proj" in name:
            key, (rows, columns) = f"base_model.model.{name.removesuffix('.weight')}", weight.shape
            state[f"{key}.lora_A.weight"] = torch.randn(rank, columns, generator=draw) * 0.02
            state[f"{key}.lora_B.weight"] = torch.randn(rows, rank, generator=draw) * 0.02
    folder.mkdir()
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": 16}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    save_file(state, folder / "adapter_model.safetensors")
    return (folder / "adapter_model.safetensors").stat().st_size


@click.command()
@click.option("--base", type=click.Path(path_type=Path), required=True, help="Folder of a model.")
def main(base: Path) -> None:
    """Bits per weight of sparse changes, and bytes of adapters."""
    state = load_file(base / "model.safetensors")
    n = sum(weight.numel() for weight in state.values())
    table = Table(title=f"{n / 1e6:,.1f}M weights, of which a share moves by one step: bits/weight")
    for column in ("share", "archive", "steps", "entropy", "of it"):
        table.add_column(column, justify="right")
    for share in SHARES:
        task = moved(state, share)
        ours = 8 * written(base.resolve(), task) / n
        least = -share * math.log2(share) - (1 - share) * math.log2(1 - share) + share
        steps = 8 * by_steps(state, task) / n
        row = (f"{share:.1%}", f"{ours:.3f}", f"{steps:.3f}", f"{least:.3f}", f"{ours / least:.2f}")
        table.add_row(*row)
    Console(width=100).print(table)
    table = Table(title="an adapter merged into all matrices: bits/weight")
    for column in ("rank", "share of the norm", "archive", "steps", "16-bit factors"):
        table.add_column(column, justify="right")
    for rank, share in UPDATES:
        task, numbers = merged(state, rank, share)
        ours, steps = 8 * written(base.resolve(), task) / n, 8 * by_steps(state, task) / n
        row = (f"{rank}", f"{share:.0%}", f"{ours:.2f}", f"{steps:.2f}", f"{16 * numbers / n:.2f}")
        table.add_row(*row)
    Console(width=100).print(table)
    for rank in RANKS:
        with tempfile.TemporaryDirectory() as name:
            own = adapter(state, rank, Path(name) / "adapter")
            ours = packed(base.resolve(), Path(name) / "adapter", Path(name))
        click.echo(
            f"adapter of rank {rank}: {own:,} bytes, in an archive {ours:,} ({ours / own:.2f})"
        )


if __name__ == "__main__":
    main()
