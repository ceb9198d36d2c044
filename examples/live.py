"""One model in memory, four tasks: swap them in place and let each write the same numbers.

    python examples/live.py STORE [--device cpu] [NUMBER ...]

STORE is a packed example family, as `make demo` leaves it in build/demo/store. Numbers go from 1 to
3999. Each answer stands beside that of the original fine-tune, with a verdict: right, the same
mistake (the fine-tune makes it, too), or differs (packing changed it).
"""

from __future__ import annotations

import argparse
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from numerals import TASKS
from rich.console import Console
from rich.table import Table
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

import taskstore

FAMILY = Path(__file__).resolve().parent / "family"
NUMBERS = (312, 45, 2000)
transformers_logging: Any = logging  # untyped


@dataclass(frozen=True)
class Answer:
    """What the original and the live model of a task write for a number."""

    task: str
    number: int
    original: str
    live: str

    @property
    def right(self) -> str:
        return TASKS[self.task](self.number)

    @property
    def verdict(self) -> str:
        if self.original != self.live:
            return "differs"
        return "right" if self.live == self.right else "same mistake"


@dataclass(frozen=True)
class Swapped:
    """One task, made live: how long the swap took, and what was written then."""

    seconds: float
    answers: list[Answer]


def written(model: Any, tokenizer: Any, numbers: Sequence[int]) -> list[str]:
    """What the model writes for each number, greedily."""
    chats = [[{"role": "user", "content": str(number)}] for number in numbers]
    encoded = tokenizer.apply_chat_template(
        chats, add_generation_prompt=True, padding=True, return_tensors="pt", return_dict=True
    ).to(model.device)
    output = model.generate(
        input_ids=encoded["input_ids"],
        attention_mask=encoded["attention_mask"],
        max_new_tokens=48,
        do_sample=False,
    )
    new = output[:, encoded["input_ids"].shape[1] :]
    texts: list[str] = tokenizer.batch_decode(new, skip_special_tokens=True)
    return texts


def show(console: Console, path: Path, numbers: Sequence[int], device: str) -> list[Answer]:
    """Print a row per task and number; return the answers."""
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    store = taskstore.open(path)
    model = store.load_model(None, device=device)
    with tempfile.TemporaryDirectory() as scratch:
        files = store.write_assets(None, scratch)
        tokenizer = AutoTokenizer.from_pretrained(files, padding_side="left")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", taskstore.ApproximationWarning)  # the table says it
        family = taskstore.attach(model, store)
    with family:
        swapped = list(swaps(family, model, tokenizer, numbers))
        memory = family.memory()
    table = Table(title="one live model, swapped in place")
    for column in ("task", "number", "original", "live model", "verdict"):
        table.add_column(column, justify="right" if column == "number" else "left")
    for answer in (one for swap in swapped for one in swap.answers):
        first, last = answer.number == numbers[0], answer.number == numbers[-1]
        table.add_row(
            answer.task if first else "",
            str(answer.number),
            answer.original,
            answer.live,
            answer.verdict,
            style={"differs": "red", "same mistake": "yellow"}.get(answer.verdict, ""),
            end_section=last,
        )
    fastest, slowest = (f(one.seconds for one in swapped) * 1000 for f in (min, max))
    table.caption = (
        f"a swap took {fastest:.1f} to {slowest:.1f} ms; weights checked after each\n"
        f"{memory.total / 1e6:.1f} MB in memory; "
        f"{len(swapped)} models take {len(swapped) * memory.live / 1e6:.1f} MB"
    )
    console.print(table)
    return [answer for swap in swapped for answer in swap.answers]


def swaps(family: Any, model: Any, tokenizer: Any, numbers: Sequence[int]) -> Iterator[Swapped]:
    """Make each task live in turn, and ask the live model and the original on disk."""
    family.swap(family.tasks[-1])  # the first swap also loads the compiled loop
    for task in family.tasks:
        began = time.perf_counter()
        family.swap(task)
        seconds = time.perf_counter() - began
        family.verify()
        with family.using(task):
            texts = written(model, tokenizer, numbers)
        fine_tune: Any = AutoModelForCausalLM.from_pretrained(FAMILY / task, dtype=model.dtype)
        originals = written(fine_tune.to(model.device).eval(), tokenizer, numbers)
        answers = zip(numbers, originals, texts, strict=True)
        yield Swapped(seconds, [Answer(task, *one) for one in answers])


def main() -> None:
    parser = argparse.ArgumentParser(description="Swap the example family's tasks in place.")
    parser.add_argument("store", type=Path)
    parser.add_argument("numbers", nargs="*", type=int, default=list(NUMBERS), metavar="NUMBER")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    if not all(0 < number < 4000 for number in args.numbers):
        parser.error("numbers go from 1 to 3999")
    torch.set_num_threads(1)  # so small a model gains nothing from a second one
    try:
        show(Console(), args.store, args.numbers, args.device)
    except taskstore.TaskstoreError as error:
        parser.exit(1, f"error: {error}\n")


if __name__ == "__main__":
    main()
