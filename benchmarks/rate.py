"""Bits per weight and task against accuracy: masks, signs, quantised vectors, low rank.

    python benchmarks/rate.py --out results.jsonl
    python benchmarks/rate.py --family lm6 --methods bitdelta,tvq --limit 0 --out results.jsonl
    python benchmarks/rate.py --family many=DIR --out results.jsonl --plot rate.png

Bits are everything but the base: what each task has of its own, and of what all share (a merged
vector) its part, divided by the weights of the tensors that all models share. Heads and whatever
else only one model has are kept exact and not counted, for every method alike. How masks, codes
and merged vectors are counted stands in rates/bits.py, fair to the baselines: entropies without an
entropy coder's overhead, no headers. `rate_ours.py` measures the library's own stores in the same
way, from the bytes of their files.

Accuracy is the share of the fine-tune's test score on the same items, its mean over tasks and its
worst. A run adds to --out and goes on where an earlier one ended.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import click
import torch
from rich.console import Console

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.rates import dropped, low_rank, results, table
from benchmarks.rates import methods as by
from benchmarks.rates.eval import KNOWN, Family, open_family
from benchmarks.rates.methods import Coded, Judge
from benchmarks.rates.results import Result
from benchmarks.rates.vectors import Vectors

GRID = (0.2, 0.3, 0.4, 0.5, 0.6)
WIDTH = 110  # of the tables where the output is no terminal


@dataclass(frozen=True)
class Setting:
    """One point of one method."""

    method: str
    setting: str
    code: Callable[[Vectors, Judge], Coded]


def _tall(lam: float) -> Callable[[Vectors, Judge], Coded]:
    return lambda v, _: by.tall(v, by.total(v), [lam] * v.tasks)


def _tall_ties(lam: float) -> Callable[[Vectors, Judge], Coded]:
    return lambda v, _: by.tall(v, by.ties(v), [lam] * v.tasks)


def _magnitude(keep: float) -> Callable[[Vectors, Judge], Coded]:
    return lambda v, _: by.magnitude(v, keep)


def _bitdelta(planes: int) -> Callable[[Vectors, Judge], Coded]:
    return lambda v, _: by.bitdelta(v, planes)


def _tvq(width: int) -> Callable[[Vectors, Judge], Coded]:
    return lambda v, _: by.tvq(v, width)


def _tsv(rate: float) -> Callable[[Vectors, Judge], Coded]:
    return lambda v, _: low_rank.tsv(v, rate)


def _tsv8(share: float) -> Callable[[Vectors, Judge], Coded]:
    return lambda v, _: low_rank.tsv8(v, share)


def _delta_come(share: float) -> Callable[[Vectors, Judge], Coded]:
    return lambda v, _: low_rank.delta_come(v, share)


def _rest(share: float, width: int) -> Callable[[Vectors, Judge], Coded]:
    return lambda v, _: low_rank.quantised_rest(v, share, width)


def _d_qrelo(share: float) -> Callable[[Vectors, Judge], Coded]:
    return lambda v, _: low_rank.d_qrelo(v, share)


def _ultradelta(keep: float, rescaled: bool) -> Callable[[Vectors, Judge], Coded]:
    return lambda v, _: dropped.ultradelta(v, keep, rescaled)


KEPT = (0.02, 0.03, 0.06, 0.12, 0.25, 0.5)
SETTINGS = [
    *(Setting("bitdelta", f"planes {n}", _bitdelta(n)) for n in (1, 2, 3, 4)),
    *(Setting("tvq", f"bits {n}", _tvq(n)) for n in (2, 3, 4)),
    Setting("rtvq", "base 3, offsets 2", lambda v, _: by.rtvq(v, 3, 2)),
    Setting("emr", "", lambda v, _: by.emr(v)),
    Setting("tall", "lambda 0.5", _tall(0.5)),
    Setting("tall-ties", "lambda 0.5", _tall_ties(0.5)),
    *(Setting("magnitude", f"keep {k}", _magnitude(k)) for k in (0.1, 0.2, 0.4, 0.6)),
    *(Setting("tsv", f"rate {r}", _tsv(r)) for r in (1.0, 1.5, 2.0, 2.5, 3.0)),
    Setting("tsv8", "share 1/T", _tsv8(0)),
    *(Setting("tsv8", f"share {s}", _tsv8(s)) for s in (0.005, 0.01, 0.02, 0.05, 0.1, 0.2)),
    *(Setting("delta-come", f"share {s}", _delta_come(s)) for s in (0.02, 0.05, 0.1, 0.2, 0.4)),
    *(
        Setting("low-rank-rest", f"share {s}, bits {n}", _rest(s, n))
        for s in (0.01, 0.05)
        for n in (2, 3)
    ),
    *(Setting("d-qrelo", f"share {s}", _d_qrelo(s)) for s in (0.02, 0.05, 0.1)),
    *(Setting("ultradelta", f"keep {k}", _ultradelta(k, True)) for k in KEPT),
    *(Setting("ultradelta", f"keep {k}, gamma 1", _ultradelta(k, False)) for k in KEPT),
    Setting("tall", "lambda val", lambda v, j: by.tall_chosen(v, by.total(v), GRID, j)),
    Setting("tall-ties", "lambda val", lambda v, j: by.tall_chosen(v, by.ties(v), GRID, j)),
]
METHODS = list(dict.fromkeys(s.method for s in SETTINGS))


def measure(family: Family, setting: Setting) -> Result:
    """Code the family, score every rebuilt model."""
    began = time.perf_counter()
    coded = setting.code(
        family.vectors, lambda t, theta_N: family.score(family.tasks[t], theta_N, "val")
    )
    pairs = zip(family.tasks, coded.thetas, strict=True)
    return Result(
        family.name,
        setting.method,
        setting.setting,
        family.limit,
        coded.rate,
        {task: family.score(task, theta_N) for task, theta_N in pairs},
        family.originals(),
        round(time.perf_counter() - began, 1),
        coded.notes,
    )


@click.command()
@click.option(
    "--family",
    "families",
    multiple=True,
    default=list(KNOWN),
    show_default=True,
    help="A known one, or NAME=FOLDER of the example's kind; repeatable.",
)
@click.option("--methods", default=",".join(METHODS), show_default=True)
@click.option("--limit", type=int, help="Items per task, 0 for all.  [default: lm6 100, others 0]")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="JSON lines.")
@click.option("--plot", type=click.Path(path_type=Path), help="Draw --out and --ours here.")
@click.option("--ours", type=click.Path(path_type=Path), help="What rate_ours.py has written.")
@click.option("--threads", default=1, show_default=True)
def main(
    families: tuple[str, ...],
    methods: str,
    limit: int | None,
    out: Path,
    plot: Path | None,
    ours: Path | None,
    threads: int,
) -> None:
    """Measure the baselines, print a table for each family."""
    wanted = methods.split(",")
    if unknown := set(wanted) - set(METHODS):
        raise click.BadParameter(
            f"{sorted(unknown)[0]} is none of {', '.join(METHODS)}", param_hint="--methods"
        )
    torch.set_num_threads(threads)
    torch.set_grad_enabled(False)
    console = Console() if sys.stdout.isatty() else Console(width=WIDTH)
    try:
        for word in families:
            family = open_family(word, limit, out.parent / "scores.jsonl")
            found = results.load(out)
            for setting in (s for s in SETTINGS if s.method in wanted):
                key = family.name, setting.method, setting.setting, family.limit
                if key not in found:
                    result = measure(family, setting)
                    result.append(out)
                    click.echo(f"{' '.join(map(str, key))}: {result.mean:.3f}", err=True)
            lines = [r for r in results.load(out).values() if r.family == family.name]
            lines.sort(key=lambda r: (METHODS.index(r.method), r.bits))
            console.print(table.make(family.name, lines))
        if plot:
            from benchmarks import rate_plot

            rate_plot.draw(out, ours, plot)
    except (OSError, ValueError) as error:
        raise click.ClickException(str(error)) from error


if __name__ == "__main__":
    main()
