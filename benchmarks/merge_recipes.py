"""The same recipe merged by taskstore and by mergekit: seconds and peak memory, method by method.

    python benchmarks/merge_recipes.py --params 5e7 --tasks 3
    python benchmarks/merge_recipes.py --only linear,slerp,karcher --repeat 3

Every method that both have, with as many threads on both sides. Both are commands, processes of
their own that alternate; peak memory is the largest resident set of each, imports and all. Both
ratios are theirs over ours, of one run. `work` leaves out what `--help` takes.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.common import envs
from benchmarks.common.cache import Cache
from benchmarks.common.experiment import warm_up
from benchmarks.common.given import family_options, given_family, title_of
from benchmarks.common.lines import seconds_of
from benchmarks.common.measure import Side, alternate
from benchmarks.common.sides import HERE, LIBRARY, MERGEKIT_FLAGS, NORMAL, remove

HALF: dict[str, Any] = {"density": 0.5}
# Method -> the number of models (0: all), their parameters, and what else the recipe says.
RECIPES: dict[str, tuple[int, dict[str, Any], dict[str, Any]]] = {
    "linear": (0, {}, {"base_model": None}),
    "task_arithmetic": (0, {}, {}),
    "ties": (0, HALF, {}),
    "dare_linear": (0, HALF, {}),
    "dare_ties": (0, HALF, {}),
    "breadcrumbs": (0, {**HALF, "gamma": 0.01}, {}),
    "breadcrumbs_ties": (0, {**HALF, "gamma": 0.01}, {}),
    "della_linear": (0, {**HALF, "epsilon": 0.1}, {}),
    "della": (0, {**HALF, "epsilon": 0.1}, {}),
    "model_stock": (0, {}, {}),
    "sce": (0, {}, {"parameters": {"select_topk": 0.5}}),
    "multislerp": (0, {}, {}),
    "karcher": (0, {}, {"base_model": None}),
    "slerp": (1, {}, {"parameters": {"t": 0.3}}),
    "nuslerp": (2, {}, {}),
    "nearswap": (1, {}, {"parameters": {"t": 1e-4}}),
    "arcee_fusion": (1, {}, {}),
    "passthrough": (1, {}, {"base_model": None}),
}


@click.command()
@family_options(params=5e7, tasks=3)
@click.option("--only", default="", metavar="METHOD,...", help="Methods.  [default: all]")
@click.option("--repeat", type=int, default=3, show_default=True, help="Runs of each side.")
@click.option("--out", type=click.Path(path_type=Path), help="Rows, a line of JSON each.")
def main(
    params: float,
    tasks: str,
    dtype: str,
    root: Path | None,
    base: str,
    jobs: int,
    work: Path,
    only: str,
    repeat: int,
    keep: bool,
    out: Path | None,
) -> None:
    """Merge a family by every method that both have, and print both ratios."""
    say = Console(stderr=True).print
    envs.ensure("mergekit")
    with given_family(root, base, params, tasks, dtype, jobs, work, keep) as (family, scratch):
        table = Table("method", "taskstore", "mergekit", "faster", "memory", title=title_of(family))
        warm_up(scratch, family.dtype, jobs)
        makers = Makers(family, scratch, jobs)
        starts = [makers.side(ours, ["--help"]) for ours in (True, False)]
        alternate(starts, 2, say)
        least = [min(run.seconds for run in side.runs) for side in starts]
        for method in only.split(",") if only else RECIPES:
            sides = [makers.merge(ours, method) for ours in (True, False)]
            alternate(sides, repeat, say)
            row = [
                {
                    "seconds": side.median(seconds_of),
                    "work": side.median(seconds_of) - start,
                    "cpu": side.median(lambda run: run.cpu),
                    "peak": max(run.peak for run in side.runs),
                }
                for side, start in zip(sides, least, strict=True)
            ]
            mine, theirs = row
            ratios = [theirs[what] / mine[what] for what in ("seconds", "work", "peak")]
            table.add_row(
                method,
                *(f"{r['seconds']:.2f} s, {r['peak'] / 2**20:,.0f} MiB" for r in row),
                f"{ratios[0]:.2f}x, work {ratios[1]:.1f}x",
                f"{ratios[2]:.1f}x less",
            )
            if out:
                with out.open("a") as file:
                    file.write(json.dumps({"method": method, "ours": mine, "other": theirs}) + "\n")
    table.caption = f"Medians of {repeat}; {jobs} threads."
    (Console() if sys.stdout.isatty() else Console(width=110)).print(table)


class Makers:
    """The commands of both sides, of one family; `scratch` takes recipes and what is merged."""

    def __init__(self, family: Any, scratch: Path, jobs: int) -> None:
        self._family, self._scratch, self._jobs = family, scratch, jobs
        self._cache = Cache.fitting(family.nbytes)

    def merge(self, ours: bool, method: str) -> Side:
        recipe, target = self._scratch / f"{method}.json", self._scratch / "merged"
        recipe.write_text(json.dumps(self._recipe(method)))  # JSON is YAML
        if ours:
            words = [*("--config", str(recipe)), *("-o", str(target)), f"--jobs={self._jobs}"]
        else:
            words = [str(recipe), str(target), *MERGEKIT_FLAGS, f"--num-threads={self._jobs}"]

        def prepare() -> None:
            remove(target)
            self._cache.prepare(self._family.files)

        return replace(self.side(ours, words), prepare=prepare)

    def side(self, ours: bool, words: list[str]) -> Side:
        if ours:
            path = os.pathsep.join([LIBRARY["PYTHONPATH"], str(HERE.parent / "cli")])
            command = [sys.executable, "-m", "taskstore_cli", "merge", *words]
            return Side("taskstore", command, lambda: None, {**LIBRARY, "PYTHONPATH": path})
        program = str(envs.ROOT / "mergekit" / "bin" / "mergekit-yaml")
        env = {**NORMAL, "PYTHONPATH": "", "HF_HUB_OFFLINE": "1"}
        return Side("mergekit", [program, *words], lambda: None, env)

    def _recipe(self, method: str) -> dict[str, Any]:
        count, own, more = RECIPES[method]
        paths = list(self._family.tasks.values())[: count or None]
        shares = [(1.0 + number) / len(paths) for number in range(len(paths))]
        made = {
            "merge_method": method,
            "base_model": str(self._family.base),
            "models": [
                {"model": str(path), "parameters": {"weight": share, **own}}
                for path, share in zip(paths, shares, strict=True)
            ],
            "dtype": "float32",
            "out_dtype": self._family.torch_dtype,
            **more,
        }
        return {key: value for key, value in made.items() if value is not None}


if __name__ == "__main__":
    main()
