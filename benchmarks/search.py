"""Search at equal evaluations: CMA-ES, particles and a grid, by the loss of the example family.

    python benchmarks/search.py [--budget 40] [--seeds 5] [--method sum]

Each scores as many merged models: mean loss per token of the answers, over the tasks' validation
examples. What they find is scored on the test examples, which no search saw. The grid is alpha in
even steps from 0 to 1; it draws nothing, so it has one row.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import torch
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from taskstore.merging import MergeOptions
from taskstore.merging.search import cma_search, grid_search, swarm_search
from taskstore.merging.search.grids import Grids
from taskstore.merging.search.origins import Folders
from taskstore.merging.search.outcome import Searched
from taskstore.merging.search.scoring import Scorer
from taskstore.merging.search.space import Space, space
from taskstore.merging.search.trials import Plan

FAMILY = Path(__file__).resolve().parents[1] / "examples" / "family"
TASKS = ("english", "german", "roman", "spanish")


@click.command()
@click.option("--budget", default=40, show_default=True, help="Models that each search scores.")
@click.option("--seeds", default=5, show_default=True)
@click.option("--method", default="sum", show_default=True)
@click.option("--limit", default=50, show_default=True, help="Examples per task.")
def main(budget: int, seeds: int, method: str, limit: int) -> None:
    """Print what each search finds."""
    torch.set_num_threads(1)
    origin = Folders(FAMILY / "base", {task: FAMILY / task for task in TASKS})
    options = MergeOptions(method, overwrite=True)
    alphas = tuple((i + 1) / budget for i in range(budget))
    box = space(options, Grids(), origin.names)
    searches: dict[str, Callable[[Path, Scorer], Searched]] = {
        "grid of alpha": partial(_grid, origin, options, Grids(alphas))
    }
    for seed in range(seeds):
        plan = Plan(budget, seed)
        searches[f"CMA-ES, seed {seed}"] = partial(_drawn, cma_search.search, origin, box, plan)
        if method == "sum":
            weights = swarm_search.space(options, Grids(), origin.names)
            own = partial(_drawn, swarm_search.search, origin, weights, plan)
            searches[f"swarm, seed {seed}"] = own
    table = Table("search", "loss, validation", "loss, test")
    judge = Scorer(lambda model, task: loss(model, task, "val", limit), tasks=TASKS, minimise=True)
    for name, search in sorted(searches.items()):
        with TemporaryDirectory() as folder:
            found = search(Path(folder) / "merged", judge)
            best = found.points.scores[found.points.best].mean
            test = [loss(Path(folder) / "merged", task, "test", limit) for task in TASKS]
        row = (name, f"{best:.4f}", f"{sum(test) / len(test):.4f}")
        print(*row, sep="\t", file=sys.stderr, flush=True)
        table.add_row(*row)
    Console().print(table)


def _grid(
    origin: Folders, options: MergeOptions, grids: Grids, out: Path, judge: Scorer
) -> Searched:
    return grid_search.search(origin, out, options, grids, judge)


def _drawn(
    search: Callable[..., Searched],
    origin: Folders,
    box: Space,
    plan: Plan,
    out: Path,
    judge: Scorer,
) -> Searched:
    return search(origin, out, box, judge, plan)


def loss(model: Path, task: str, split: str, limit: int) -> float:
    """Mean over the tokens of the answers of minus log p."""
    from transformers import AutoModelForCausalLM

    net: Any = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    ids_NL, answer_NL = _encoded(task, split, limit)
    with torch.no_grad():
        logp_NLV = net(input_ids=ids_NL).logits[:, :-1].log_softmax(-1)
    own_NL = logp_NLV.gather(2, ids_NL[:, 1:, None])[..., 0]
    return float(-own_NL[answer_NL[:, 1:]].mean())


@cache
def _encoded(task: str, split: str, limit: int) -> tuple[Any, Any]:
    """Tokens, (N, L), padded at their end, and where the answers are."""
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(FAMILY / "base")
    rows = []
    lines = (FAMILY.parent / "data" / f"{task}.{split}.jsonl").read_text().splitlines()[:limit]
    for item in map(json.loads, lines):
        turn = [{"role": "user", "content": item["prompt"]}]
        chat = tokenizer.apply_chat_template(turn, add_generation_prompt=True, return_dict=True)
        before = list(chat["input_ids"])
        after = tokenizer(item["answer"], add_special_tokens=False)["input_ids"]
        rows.append((before, [*after, tokenizer.eos_token_id]))
    long = max(len(before) + len(after) for before, after in rows)
    ids_NL = torch.zeros((len(rows), long), dtype=torch.long)
    answer_NL = torch.zeros((len(rows), long), dtype=torch.bool)
    for n, (before, after) in enumerate(rows):
        ids_NL[n, : len(before) + len(after)] = torch.tensor([*before, *after])
        answer_NL[n, len(before) : len(before) + len(after)] = True
    return ids_NL, answer_NL


if __name__ == "__main__":
    main()
