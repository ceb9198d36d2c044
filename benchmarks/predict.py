"""What tells, without data, how much of a fine-tune's score a store keeps: measure pairs of both.

    python benchmarks/predict.py --family numerals --family heavy=DIR/family
    python benchmarks/predict_rules.py -o docs/predict.png

Each family is packed at some rates, and each task of each store is rebuilt, scored and compared
with its fine-tune, tensor by tensor. One JSON line for each is added to `--out`; what is there is
not measured again. `predict_rules.py` compares rules on these lines and draws the picture.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path

import click
import torch
from safetensors.torch import load_file
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import taskstore
from benchmarks.predict_rules import PAIRS, Pair, there
from benchmarks.rate_ours import options
from benchmarks.rates.eval import KNOWN, Family, open_family
from benchmarks.rates.vectors import matrix

NONE = Path(os.devnull)  # no journal: a score belongs to a line
PACKS = [
    *(f"--tiers rest --residual {bits}" for bits in (0.2, 0.3, 0.5, 1, 1.5, 2)),
    *("--tiers auto", "--tiers auto:B", "--tiers mask"),
]
LIMITS = {"lm6": 100, "vision4": 400}  # test items of a task, of the others all

State = Mapping[str, Tensor]


def measure(family: Family, arguments: str, originals: Mapping[str, float]) -> Iterator[Pair]:
    """Pack, and compare each task; `originals` are the fine-tunes' scores."""
    base = load_file(family.base / "model.safetensors")
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "store"
        taskstore.pack(family.base, family.folders, path, options(arguments))
        store = taskstore.open(path)
        bits = {task.name: task.bits_per_parameter for task in store.summary().tasks}
        for task, folder in family.folders.items():
            rebuilt = store.state_dict(task)
            yield {
                "family": family.name,
                "pack": arguments,
                "task": task,
                "items": family.limit,
                "bits": round(bits[task], 3),
                "original": originals[task],
                "score": scored(family, task, rebuilt),
                **compared(base, load_file(folder / "model.safetensors"), rebuilt),
            }


def scored(family: Family, task: str, state: State) -> float:
    """Score a task's model with all of these tensors."""
    model = family.kind.load(family.root / task).eval()
    weights = model.state_dict()
    for name, weight in state.items():
        weights[name].copy_(weight)
    return family.kind.score(model, family.root, task, "test", family.limit)


def compared(base: State, tuned: State, rebuilt: State) -> Pair:
    """Figures of e = rebuilt - fine-tune, over the weights that the base has too.

    weight_error, projection, relative_error   |e| / |w|, <tau, tau^> / |tau|^2, |e|^2 / |tau|^2
    noise            |e - (p - 1) tau| / |w|, with p the projection: what does not lie along tau
    spectral_sum, _mean, _worst   norms of matrices: the sum of e's over that of w's, and what each
                     one has, the mean and the largest
    spectral_tau     the sum of e's over that of tau's
    tensor_worst     the largest |e| / |w| of a matrix
    """
    error = product = tau2 = weights = 0.0
    norms: list[list[float]] = []  # of matrices: spectral of e, w, tau; Frobenius of e and w
    for name, theta0 in base.items():
        if not theta0.is_floating_point() or name not in tuned:
            continue
        rows = min(len(theta0), len(tuned[name])) if theta0.ndim else None
        if rows is not None and theta0.shape[1:] != tuned[name].shape[1:]:
            continue
        w0, w, back = (one[:rows].float() if theta0.ndim else one.float()
                       for one in (theta0, tuned[name], rebuilt[name]))  # fmt: skip
        e, tau = back - w, w - w0
        error += float((e * e).sum(dtype=torch.float64))
        weights += float((w * w).sum(dtype=torch.float64))
        tau2 += float((tau * tau).sum(dtype=torch.float64))
        product += float((tau * (back - w0)).sum(dtype=torch.float64))
        if size := matrix(w.shape):
            e, w, tau = e.reshape(size), w.reshape(size), tau.reshape(size)
            norms.append([*map(spectral, (e, w, tau)), float(e.norm()), float(w.norm())])
    p = product / tau2
    e_M, w_M, tau_M, e2_M, w2_M = torch.tensor(norms, dtype=torch.float64).T
    figures = {
        "weight_error": (error / weights) ** 0.5,
        "projection": p,
        "relative_error": error / tau2,
        "noise": (max(0.0, error - (p - 1) ** 2 * tau2) / weights) ** 0.5,
        "spectral_sum": float(e_M.sum() / w_M.sum()),
        "spectral_mean": float((e_M / w_M).mean()),
        "spectral_worst": float((e_M / w_M).max()),
        "spectral_tau": float(e_M.sum() / tau_M.sum()),
        "tensor_worst": float((e2_M / w2_M).max()),
    }
    return {name: float(f"{figure:.5g}") for name, figure in figures.items()}


def spectral(matrix_MN: Tensor) -> float:
    """The largest singular value."""
    gram = matrix_MN @ matrix_MN.T if len(matrix_MN) < matrix_MN[0].numel() else None
    gram = matrix_MN.T @ matrix_MN if gram is None else gram
    return float(torch.linalg.eigvalsh(gram.double())[-1].clamp(min=0).sqrt())


@click.command()
@click.option("--family", "families", multiple=True, default=list(KNOWN), show_default=True)
@click.option("--pack", "packs", multiple=True, default=PACKS, show_default=True)
@click.option("--limit", type=int, help="Items per task, 0 for all.")
@click.option("--out", type=click.Path(path_type=Path), default=PAIRS, help="JSON lines.")
def main(families: tuple[str, ...], packs: tuple[str, ...], limit: int | None, out: Path) -> None:
    """Add pairs to OUT."""
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    warnings.simplefilter("ignore", taskstore.ApproximationWarning)  # that is what is measured
    try:
        for word in families:
            family = open_family(word, LIMITS.get(word) if limit is None else limit, NONE)
            done = {(pair["family"], pair["pack"]) for pair in there(out)}
            missing = [one for one in packs if (family.name, one) not in done]
            originals = {
                task: scored(family, task, load_file(folder / "model.safetensors"))
                for task, folder in (family.folders if missing else {}).items()
            }
            for arguments in missing:
                found = list(measure(family, arguments, originals))
                with out.open("a") as file:
                    file.writelines(json.dumps(pair) + "\n" for pair in found)
                print(family.name, arguments, len(found), flush=True)
    except (OSError, ValueError, taskstore.TaskstoreError) as error:
        raise click.ClickException(str(error)) from error


if __name__ == "__main__":
    main()
