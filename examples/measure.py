"""The tables of README.md: scores, task-vector norms, and the method in plain torch.

    python examples/measure.py [--family DIR] [--lambda 0.5] [--limit N]

Independent of the taskstore package: tau_t = theta_t - theta_0, tau = sum of all tau_t, and
theta_0 + tau where |tau_t| > lambda * |tau - tau_t|, theta_0 elsewhere (arXiv 2405.07813), in
fp32 on the bf16 checkpoints and rounded to bf16.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path

import torch
from evaluate import score
from numerals import TASKS
from rich.console import Console
from rich.table import Table
from safetensors.torch import load_file, save_file
from torch import Tensor

FAMILY = Path(__file__).resolve().parent / "family"
WEIGHTS = "model.safetensors"

Weights = dict[str, Tensor]


def read(folder: Path) -> Weights:
    """Weights of a model folder in fp32."""
    return {name: weight.float() for name, weight in load_file(folder / WEIGHTS).items()}


def write(weights: Weights, like: Path, folder: Path) -> Path:
    """A model folder with these weights in bf16 and everything else as in `like`."""
    shutil.copytree(like, folder)
    rounded = {name: weight.bfloat16() for name, weight in weights.items()}
    save_file(rounded, folder / WEIGHTS, metadata={"format": "pt"})
    return folder


def norm(weights: Weights) -> float:
    return float(torch.cat([weight.flatten() for weight in weights.values()]).double().norm())


def minus(left: Weights, right: Weights) -> Weights:
    return {name: left[name] - right[name] for name in left}


def rebuild(base: Weights, tau: Weights, own: Weights, lam: float) -> tuple[Weights, float]:
    """theta_0 + mask * tau, and the share of weights in the mask."""
    masks = {name: own[name].abs() > lam * (tau[name] - own[name]).abs() for name in base}
    density = sum(int(mask.sum()) for mask in masks.values()) / sum(
        mask.numel() for mask in masks.values()
    )
    return {name: base[name] + masks[name] * tau[name] for name in base}, density


def scores(folder: Path, limit: int | None) -> dict[str, float]:
    return {task: score(folder, task, limit=limit) for task in TASKS}


def print_matrix(console: Console, title: str, rows: dict[str, dict[str, float]]) -> None:
    table = Table(title=title)
    table.add_column("model")
    for task in TASKS:
        table.add_column(task, justify="right")
    for model, row in rows.items():
        table.add_row(model, *(f"{value:.1%}" for value in row.values()))
    console.print(table)


def measure(family: Path, lam: float, limit: int | None, scratch: Path) -> None:
    console = Console()
    base = read(family / "base")
    own = {task: minus(read(family / task), base) for task in TASKS}
    tau = {name: torch.stack([vector[name] for vector in own.values()]).sum(0) for name in base}
    console.print(f"norm of the base {norm(base):.3f}, of tau {norm(tau):.4f}")
    folders, merged = {}, {name: base[name] + tau[name] for name in base}
    folders["base + tau"] = write(merged, family / "base", scratch / "sum")
    for task, vector in own.items():
        weights, density = rebuild(base, tau, vector, lam)
        folders[task] = write(weights, family / task, scratch / task)
        relative = norm(vector) / norm(base)
        console.print(
            f"{task:8} norm {norm(vector):.4f} ({relative:.2%} of the base), mask {density:.1%}"
        )
    originals = {name: scores(family / name, limit) for name in ["base", *TASKS]}
    print_matrix(console, "originals", originals)
    rebuilt = {name: scores(folder, limit) for name, folder in folders.items()}
    print_matrix(console, f"rebuilt, lambda {lam:g}", rebuilt)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the example family in plain torch.")
    parser.add_argument("--family", type=Path, default=FAMILY)
    parser.add_argument("--lambda", dest="lam", type=float, default=0.5)
    parser.add_argument("--limit", type=int)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="taskstore-measure-") as scratch:
        measure(args.family, args.lam, args.limit, Path(scratch))


if __name__ == "__main__":
    main()
