"""How much of each task's score is left in one merged model, method by method.

    python benchmarks/merge_scores.py --family numerals --family vision4 --out merged.jsonl

Every method is merged once by `taskstore.merging`, in float32, and its vector scaled by alpha.
From the middle of the grid alpha goes on while the mean on validation items gets better; the best
is scored on test items. Kept: score over the fine-tune's own, mean and worst task. Methods that
need statistics get them of the validation items. Heads are each task's own. Scores are kept in
--journal by the weights' digest, so an interrupted run goes on.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import click
import numpy as np
from rich.console import Console
from rich.table import Table
from safetensors.torch import load_file
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.rates.eval import KNOWN, Family, open_family
from taskstore.merging import MergeOptions, merge
from taskstore.merging.methods import info_of, options_of
from taskstore.statistics.driver import measure
from taskstore.statistics.options import MeasureOptions

GRID = (0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0)
ONE = (1.0,)
DEEP = (0.1, 0.2, 0.3, 0.4, 0.6)  # for vectors that are scaled by depth: the last block gets more
EXAMPLES = 64  # per task, for statistics
WIDTH = 110


@dataclass(frozen=True)
class Try:
    method: str
    options: Mapping[str, float] = field(default_factory=dict)
    grid: Sequence[float] = GRID


TRIES = (
    Try("average", grid=ONE),
    Try("sum"),
    Try("ties"),
    Try("dare"),
    Try("dare+ties", {"p": 0.5}),
    Try("magnitude"),
    Try("consensus", {"k": 1}),
    Try("consensus", {"k": 2}),
    Try("consensus+ties", {"k": 2}),
    Try("lsq"),
    Try("emr"),
    Try("model_stock", grid=ONE),
    Try("tsv"),
    Try("wudi+lines", {"ridge": 0.3, "others": 0, "shallow": 1, "beta": 4}, DEEP),
    Try("wudi+lines", {"ridge": 0.3, "shallow": 1, "beta": 4}, DEEP),
    Try("wudi"),
    Try("kron+lines", {"others": 0, "shallow": 1, "beta": 4}, DEEP),
    Try("tsv+lines", {"shallow": 1, "beta": 2}, DEEP),
    Try("trust_region+wudi+lines", {"ridge": 0.3, "others": 0, "shallow": 1, "beta": 4}, DEEP),
    Try("wudi+svc+lines", {"ridge": 0.3, "others": 0, "shallow": 1, "beta": 4}, DEEP),
    Try("sum+lines", {"shallow": 1, "beta": 4}, DEEP),
    Try("actmat"),
    Try("iso_cts"),
    Try("iso_c"),
    Try("svc"),
    Try("trust_region"),
    Try("tvq"),
    Try("tvq+emr"),
    Try("localize_and_stitch", {"density": 0.3}),
    Try("lors"),
    Try("ties+lines", {"shallow": 1, "beta": 4}, DEEP),
    Try("wudi", {"steps": 300, "rate": 2e-5}),
    Try("wudi", {"ridge": 1e-8}),
    Try("fisher", grid=ONE),
    Try("gradient", grid=GRID),
    Try("regmean", grid=ONE),
    Try("obim"),
)


class Merges:
    """Merged models of one family, as flat vectors of what its tasks share."""

    def __init__(self, family: Family, scratch: Path) -> None:
        self._family, self._scratch = family, scratch

    def merged(self, tried: Try) -> Callable[[float], Tensor]:
        """alpha -> the merged model."""
        if "alpha" in options_of(tried.method):  # its formula has alpha inside
            return lambda alpha: self._moved(self._vector(tried, alpha), 1)
        vector_N = self._vector(tried, None)
        return lambda alpha: self._moved(vector_N, alpha)

    def _moved(self, vector_N: Tensor, alpha: float) -> Tensor:
        return self._family.vectors.moved(alpha * vector_N)

    def _vector(self, tried: Try, alpha: float | None) -> Tensor:
        family = self._family
        kinds = info_of(tried.method).statistics
        options = MergeOptions(
            tried.method,
            tried.options,
            alpha,
            dtype="F32",
            statistics={task: self._statistics(task) for task in family.tasks} if kinds else {},
        )
        with tempfile.TemporaryDirectory(dir=self._scratch) as folder:
            merge(family.base, family.folders, Path(folder) / "merged", options)
            made_N = family.vectors.flat(load_file(Path(folder) / "merged" / "model.safetensors"))
        return made_N - family.vectors.base_N.float()

    def _statistics(self, task: str) -> Path:
        path = self._scratch / f"{task}.statistics.safetensors"
        if not path.exists():
            folders = (self._family.root / "data", self._family.root.parent / "data")
            stem = next(d for d in folders if d.is_dir()) / f"{task}.val"
            data = stem.with_name(f"{stem.name}.jsonl")
            if not data.exists():
                data = self._images(stem.with_name(f"{stem.name}.npz"), task)
            measure(self._family.root / task, data, path, MeasureOptions(limit=EXAMPLES))
        return path

    def _images(self, path: Path, task: str) -> Path:
        """The first grey images of a family's own file as a file of examples."""
        with np.load(path) as file:
            pixels, labels = file["x"][:EXAMPLES], file["y"][:EXAMPLES]
        lines = [
            json.dumps({"image": image[..., None].tolist(), "label": int(label)})
            for image, label in zip(pixels, labels, strict=True)
        ]
        target = self._scratch / f"{task}.jsonl"
        target.write_text("\n".join(lines) + "\n")
        return target


def kept(family: Family, theta_N: Tensor, own: Mapping[str, float], split: str) -> list[float]:
    return [family.score(task, theta_N, split) / own[task] for task in family.tasks]


def judged(
    family: Family, merged: Callable[[float], Tensor], own: Mapping[str, float], alpha: float
) -> float:
    return mean(kept(family, merged(alpha), own, "val"))


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def climbed(grid: Sequence[float], score: Callable[[float], float]) -> dict[float, float]:
    """alpha -> score, from the middle of the grid on, up on both sides."""
    best = len(grid) // 2
    found = {grid[best]: score(grid[best])}
    for side in (1, -1):
        while 0 <= best + side < len(grid) and grid[best + side] not in found:
            found[grid[best + side]] = score(grid[best + side])
            if found[grid[best + side]] <= found[grid[best]]:
                break
            best += side
    return found


@click.command()
@click.option("--family", "names", multiple=True, help=f"{', '.join(KNOWN)}, or NAME=FOLDER.")
@click.option("--limit", type=int, help="Items per task and split; 0: all.")
@click.option("--only", default="", metavar="METHOD,...", help="Methods.  [default: all]")
@click.option("--journal", type=click.Path(path_type=Path), default=Path("merge-scores.jsonl"))
@click.option("--out", type=click.Path(path_type=Path), help="Results, a line of JSON each.")
def main(
    names: tuple[str, ...], limit: int | None, only: str, journal: Path, out: Path | None
) -> None:
    """Merge families by every method and print what is kept."""
    console = Console() if sys.stdout.isatty() else Console(width=WIDTH)
    for name in names or ("numerals",):
        family = open_family(name, limit, journal)
        own = family.originals()
        table = Table("method", "alpha", "kept", "worst", *family.tasks, title=family.name)
        with tempfile.TemporaryDirectory() as scratch:
            merges = Merges(family, Path(scratch))
            for tried in TRIES:
                if only and tried.method not in only.split(","):
                    continue
                try:
                    merged = merges.merged(tried)
                except Exception as error:  # a family may not have what a method needs
                    console.print(f"{tried.method}: {error}")
                    continue
                scores = climbed(tried.grid, partial(judged, family, merged, own))
                best = max(scores, key=lambda a: scores[a])
                test = kept(family, merged(best), own, "test")
                label = tried.method + "".join(f", {k} {v:g}" for k, v in tried.options.items())
                cells = [f"{value:.1%}" for value in (mean(test), min(test), *test)]
                table.add_row(label, f"{best:g}", *cells)
                if out:
                    line = {"family": family.name, "method": label, "alpha": best,
                            "kept": dict(zip(family.tasks, test, strict=True)),
                            "validation": scores}  # fmt: skip
                    with out.open("a") as file:
                        file.write(json.dumps(line) + "\n")
        console.print(table)


if __name__ == "__main__":
    main()
