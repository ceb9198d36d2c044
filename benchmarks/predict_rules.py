"""Compare rules that say without data what a store keeps, on the pairs of `predict.py`; draw them.

    python benchmarks/predict_rules.py -o docs/predict.png

A rule is a number of a pair, figure + weight * |1 - projection|. It promises 99 % (97 %) of a
fine-tune's score where the number is at most a limit. A promise is false where less was kept than
that, by more than the items' noise: one item. Under leave-one-family-out weight and limits are
chosen on the other families: the largest limit without a false promise. A picture needs matplotlib
(pip install matplotlib), and nothing else of this project is imported.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.console import Console
from rich.table import Table

PAIRS = Path(__file__).with_name("predict.jsonl")
SHARES = {"A": 0.99, "B": 0.97}
LIMITS = {"A": 0.030, "B": 0.055}  # today's
ITEMS = {"numerals": 300, "heavy": 300, "vision4": 400, "lm6": 100}
WEIGHTS = (0.0, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0)
TODAY = "weight_error"
FIGURES = [
    *(TODAY, "noise", "tensor_worst", "spectral_sum", "spectral_mean", "spectral_worst"),
    *("spectral_tau", "relative_error"),
]
COLOURS = {"numerals": "#1f77b4", "heavy": "#9467bd", "vision4": "#2ca02c", "lm6": "#d62728"}
FLOOR = 0.7  # shares below are drawn on the lower edge

Pair = dict[str, Any]


@dataclass(frozen=True)
class Rule:
    figure: str
    weight: float

    def of(self, pair: Pair) -> float:
        return float(pair[self.figure]) + self.weight * abs(1 - float(pair["projection"]))


def there(path: Path) -> list[Pair]:
    """Pairs of a task and a store of it."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def kept(pair: Pair) -> float:
    return float(pair["score"] / pair["original"])


def short(pair: Pair, share: float) -> bool:
    """Whether less than the share was kept, by more than an item."""
    item = 1 / (ITEMS[pair["family"]] * pair["original"])
    return bool(kept(pair) + item * 1.001 < share)


def limit(rule: Rule, pairs: Sequence[Pair], share: float) -> float:
    """The number of the last pair before the first false promise, half-way to that."""
    numbers = sorted((rule.of(pair), short(pair, share)) for pair in pairs)
    last = 0.0
    for number, false in numbers:
        if false:
            return (last + number) / 2
        last = number
    return last


def promised(rule: Rule, most: float, pairs: Iterable[Pair]) -> list[Pair]:
    return [pair for pair in pairs if rule.of(pair) <= most]


def best(figure: str, pairs: Sequence[Pair], share: float) -> tuple[Rule, float]:
    """The weight whose largest limit without a false promise promises most pairs."""
    rules = [Rule(figure, weight) for weight in WEIGHTS]
    found = [(rule, limit(rule, pairs, share)) for rule in rules]
    return max(found, key=lambda one: len(promised(one[0], one[1], pairs)))


def left_out(figure: str, pairs: Sequence[Pair], share: float) -> tuple[int, int]:
    """Promises, and false ones, about each family from rules of the others."""
    count = false = 0
    for family in dict.fromkeys(pair["family"] for pair in pairs):
        others = [pair for pair in pairs if pair["family"] != family]
        mine = [pair for pair in pairs if pair["family"] == family]
        found = promised(*best(figure, others, share), mine)
        count += len(found)
        false += sum(short(pair, share) for pair in found)
    return count, false


def rank(numbers: Sequence[float], pairs: Sequence[Pair]) -> float:
    """Spearman's correlation of a number with what was lost."""

    def ranks(x: Sequence[float]) -> Any:
        values = np.asarray(x)
        return np.array([(values < one).sum() + (values == one).sum() / 2 for one in values])

    return float(np.corrcoef(ranks(numbers), ranks([-kept(pair) for pair in pairs]))[0, 1])


def table(pairs: Sequence[Pair]) -> Table:
    able = {g: sum(not short(pair, share) for pair in pairs) for g, share in SHARES.items()}
    made = Table(title=f"{len(pairs)} pairs; kept enough: {able}", title_justify="left")
    for column in ("rule", "rank", "99 %: promised", "97 %: promised", "left out, 99 %", "97 %"):
        made.add_column(column)
    today = Rule(TODAY, 0.2)
    cells = []
    for grade, share in SHARES.items():
        found = promised(today, LIMITS[grade], pairs)
        cells.append(f"{len(found)}, {sum(short(pair, share) for pair in found)} false")
    numbers = [today.of(pair) for pair in pairs]
    made.add_row(f"today's: {TODAY}, 0.2", f"{rank(numbers, pairs):.2f}", *cells)
    for figure in FIGURES:
        rules = [best(figure, pairs, share) for share in SHARES.values()]
        weights = " and ".join(f"{rule.weight:g} to {most:.3f}" for rule, most in rules)
        numbers = [rules[0][0].of(pair) for pair in pairs]
        cells = [str(len(promised(*one, pairs))) for one in rules]
        outs = [left_out(figure, pairs, share) for share in SHARES.values()]
        cells += [f"{false} false of {count}" for count, false in outs]
        made.add_row(f"{figure}, {weights}", f"{rank(numbers, pairs):.2f}", *cells)
    return made


def draw(pairs: Sequence[Pair], target: Path) -> None:
    """Today's rule against what was kept; raises ValueError where matplotlib is missing."""
    try:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot
    except ImportError:
        raise ValueError("a plot needs matplotlib: pip install matplotlib") from None
    figure, axis = pyplot.subplots(figsize=(7.6, 4.2))
    rule = Rule(TODAY, 0.2)
    for low, high, colour in ((0.0, 0.03, "#e8f4e8"), (0.03, 0.055, "#fdf6df")):
        axis.axvspan(low, high, color=colour, zorder=0)
    for grade, x in (("A", 0.018), ("B", 0.0405), ("C", 0.12)):
        axis.text(x, 1.085, grade, ha="center", fontsize=11, color="#555555")
    for family, colour in COLOURS.items():
        mine = [pair for pair in pairs if pair["family"] == family]
        for masks, marker in ((False, "o"), (True, "^")):
            some = [pair for pair in mine if ("mask" in pair["pack"]) == masks]
            if not some:
                continue
            label = f"{family}, {'masks' if masks else 'rests'}"
            y = [max(FLOOR, kept(pair)) for pair in some]
            axis.scatter([rule.of(pair) for pair in some], y, s=22, marker=marker, alpha=0.75,
                         label=label, color=colour, linewidths=0)  # fmt: skip
    for grade, most in LIMITS.items():
        share = SHARES[grade]
        axis.plot([0.006, most], [share, share], color="#333333", linewidth=0.9, linestyle="--")
    axis.set_xscale("log")
    ticks = (0.01, 0.02, 0.03, 0.055, 0.1, 0.2, 0.3)
    axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axis.minorticks_off()
    axis.set_xlim(0.006, 0.4)
    axis.set_ylim(FLOOR - 0.02, 1.11)
    shares = np.arange(FLOOR, 1.11, 0.1)
    axis.set_yticks(shares, [f"{share:.0%}" for share in shares])
    axis.set_xlabel("error: weight error + 0.2 |1 - projection|")
    axis.set_ylabel("share of the fine-tune's score")
    axis.grid(color="#eeeeee", linewidth=0.6)
    axis.set_axisbelow(True)
    axis.legend(frameon=False, fontsize=8, ncol=2, loc="lower left")
    figure.tight_layout()
    figure.savefig(target, dpi=110)
    pyplot.close(figure)


@click.command()
@click.argument("pairs", type=click.Path(path_type=Path), default=PAIRS)
@click.option("-o", "target", type=click.Path(path_type=Path), help="A picture of today's rule.")
def main(pairs: Path, target: Path | None) -> None:
    """Compare rules on PAIRS."""
    found = there(pairs)
    Console(width=150).print(table(found))
    rule = Rule(TODAY, 0.2)
    for grade, share in SHARES.items():
        below = [pair for pair in promised(rule, LIMITS[grade], found) if kept(pair) < share]
        for pair in below:
            print(grade, pair["family"], pair["task"], pair["pack"], f"{kept(pair):.1%}",
                  "false" if short(pair, share) else "within an item")  # fmt: skip
    if target:
        draw(found, target)


if __name__ == "__main__":
    main()
