"""Make a family that is harder to keep than the example's: five fine-tunes of its base.

    python benchmarks/heavy.py --out DIR
    python benchmarks/rate_ours.py --family heavy=DIR/family --pack '--residual 0.5' --out o.jsonl

    english     as in the example: 60 steps
    order       German, from another order of the data
    continued   Roman, 60 steps from the German fine-tune, not from the base
    grown       Spanish with tokens of its own, so an embedding of more rows; 240 steps at 1e-3
    long        digits as words, which the base has never seen: 600 steps, ten times the others'

All else is as in `examples/train.py`. One thread, minutes; same torch and same kind of processor:
same bytes.
"""

from __future__ import annotations

import json
import random
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
import torch
from transformers import AutoTokenizer, LlamaForCausalLM

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))

import train
from numerals import TASKS

BASE = Path(__file__).resolve().parents[1] / "examples/family/base"
STEPS = 60
_WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
_TOKENS = """
mil ciento dos tres cuatro cinco seis siete ocho nueve cientos treinta cuarenta cincuenta
sesenta setenta ochenta noventa veinti dieci quinientos setecientos novecientos trescientos
"""


def spelled(n: int) -> str:
    """312 -> three one two"""
    return " ".join(_WORDS[int(digit)] for digit in str(n))


WAYS: dict[str, Callable[[int], str]] = {
    "english": TASKS["english"],
    "order": TASKS["german"],
    "continued": TASKS["roman"],
    "grown": TASKS["spanish"],
    "long": spelled,
}


def write_data(folder: Path) -> None:
    """folder/TASK.SPLIT.jsonl, the numbers of the example's splits."""
    folder.mkdir(parents=True, exist_ok=True)
    numbers = train.splits(0)
    for task, write in WAYS.items():
        for split in ("test", "val"):
            items = ({"prompt": str(n), "answer": write(n)} for n in numbers[split])
            text = "".join(json.dumps(item) + "\n" for item in items)
            (folder / f"{task}.{split}.jsonl").write_text(text)


def tune(start: Path, folder: Path, write: Callable[[int], str], steps: int, seed: int = 0,
         rate: float = train.TUNE_RATE, tokens: Sequence[str] = ()) -> None:  # fmt: skip
    """Fine-tune the model in `start`, with further tokens where they are given."""
    torch.manual_seed(seed)
    tokenizer: Any = AutoTokenizer.from_pretrained(start)
    model: Any = LlamaForCausalLM.from_pretrained(start, dtype=torch.float32)
    if tokens:
        tokenizer.add_tokens([*tokens])
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    numbers, rng = train.pool(train.splits(0)["train"]), random.Random(seed)
    drawn = iter(lambda: rng.choice(numbers), None)
    samples = ((str(n), write(n)) for n in drawn)
    train.train(model, tokenizer, samples, steps=steps, rate=rate, label=folder.name)
    train.save(model, tokenizer, folder)


@click.command()
@click.option("--out", type=click.Path(path_type=Path), required=True, help="For family/, data/.")
def main(out: Path) -> None:
    """Make the family in OUT/family, and its items in OUT/data."""
    torch.set_num_threads(1)
    family = out / "family"
    write_data(out / "data")
    shutil.copytree(BASE, family / "base", dirs_exist_ok=True)
    tune(BASE, family / "english", WAYS["english"], STEPS)
    tune(BASE, family / "order", WAYS["order"], STEPS, seed=1)
    tune(family / "order", family / "continued", WAYS["continued"], STEPS)
    tune(BASE, family / "grown", WAYS["grown"], 4 * STEPS, rate=1e-3, tokens=_TOKENS.split())
    tune(BASE, family / "long", WAYS["long"], 10 * STEPS)


if __name__ == "__main__":
    main()
