"""Chains of parents: bytes of the checkpoints of a run, and the time to load at the end of a chain.

    python benchmarks/chains.py --run DIR       DIR: a run that was kept, or where to keep one

`examples/train.py` fine-tunes the example's base for 640 steps, with a checkpoint every 10; they
are packed with and without parents. Then a synthetic chain of eight fine-tunes is loaded at every
depth, in turns, on one core; the least of all rounds counts, in processor time.
"""

from __future__ import annotations

import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import torch
from rich.console import Console
from rich.table import Table
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))

import taskstore
from taskstore.packing.options import PackOptions

BASE = Path(__file__).resolve().parents[1] / "examples" / "family" / "base"
STEPS, EVERY, DEPTH = 640, 10, 8
SIZE_TARGET, LOAD_TARGET = 0.5, 3.0


def train_run(run: Path) -> None:
    """Fine-tune the example's base, a checkpoint every 10 steps."""
    import train
    from transformers import AutoTokenizer, LlamaForCausalLM

    model: Any = LlamaForCausalLM.from_pretrained(BASE, dtype=torch.float32)
    numbers = train.pool(train.splits(0)["train"])
    train.train(
        model,
        AutoTokenizer.from_pretrained(BASE),
        train.task_samples("roman", numbers, random.Random(0)),
        steps=STEPS,
        rate=train.TUNE_RATE,
        label="roman",
        run=run,
        every=EVERY,
    )


def pack_run(run: Path, scratch: Path) -> tuple[int, int]:
    """Return bytes of the exact tensors against the base, and with parents."""
    sizes = []
    for parent in ("none", "auto"):
        options = PackOptions(tiers="exact", parent=parent)
        report = taskstore.pack(BASE, {"run": run}, scratch / parent, options)
        sizes.append(report.summary.exact_bytes)
    return sizes[0], sizes[1]


def make_chain(root: Path, params: int, step: float) -> Path:
    """Pack fine-tunes of which each is tuned from the one before."""
    generator = torch.Generator().manual_seed(0)
    shape, layers = (2048, 1024), max(1, params // 2048 // 1024)
    state = {f"layers.{i}.weight": torch.zeros(shape) for i in range(layers)}
    paths = {}
    for i in range(DEPTH + 1):
        for weight in state.values():
            weight += torch.randn(shape, generator=generator) * (
                step if i > 1 else 0.0005 if i else 0.02
            )
        name = f"t{i}"
        paths[name] = root / name
        paths[name].mkdir()
        tensors = {n: w.to(torch.bfloat16) for n, w in state.items()}
        save_file(tensors, paths[name] / "model.safetensors", metadata={"format": "pt"})
        (paths[name] / "config.json").write_text('{"model_type": "test"}')
    base = paths.pop("t0")
    parents = {f"t{i}": f"t{i - 1}" for i in range(2, DEPTH + 1)}
    options = PackOptions(tiers="exact", parent="none", parents=parents)
    taskstore.pack(base, paths, root / "store", options)
    return root / "store"


def load_times(path: Path, repeat: int) -> dict[str, float]:
    """Return the least processor time of each task, by rounds over all."""
    store = taskstore.open(path)
    least = dict.fromkeys(store.tasks, float("inf"))
    for _ in range(repeat):
        for task in store.tasks:
            began = time.process_time()
            store.state_dict(task, jobs=1)
            least[task] = min(least[task], time.process_time() - began)
    return least


@click.command()
@click.option("--run", type=click.Path(path_type=Path), help="Folder of the checkpoints.")
@click.option("--params", default=2.5e7, help="Weights of the synthetic chain.")
@click.option("--step", default=2e-5, help="Standard deviation of a step in it.")
@click.option("--repeat", default=7)
def main(run: Path | None, params: float, step: float, repeat: int) -> None:
    table = Table("what", "one", "the other", "ratio", "target")
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        run = run or scratch / "run"
        if not run.exists():
            train_run(run)
        apart, chained = pack_run(run, scratch)
        table.add_row(
            "checkpoints of a run: with parents, against the base",
            *(f"{chained:,} B", f"{apart:,} B", f"{chained / apart:.2f}", f"<= {SIZE_TARGET}"),
        )
        least = load_times(make_chain(scratch, int(params), step), repeat)
        first, last = least["t1"], least[f"t{DEPTH}"]
        table.add_row(
            f"load, depth {DEPTH} and depth 1",
            *(f"{last:.3f} s", f"{first:.3f} s", f"{last / first:.2f}", f"<= {LOAD_TARGET}"),
        )
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
