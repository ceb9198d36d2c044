"""One model in memory, four tasks: swap them in place and let each write the same numbers.

    python examples/live.py STORE [--device cpu] [NUMBER ...]

STORE is a packed example family, as `examples/demo.py --out DIR` leaves it in DIR/store.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from transformers import AutoTokenizer
from transformers.utils import logging

import taskstore

NUMBERS = ("312", "45")
transformers_logging: Any = logging  # untyped


def answer(model: Any, tokenizer: Any, numbers: list[str]) -> list[str]:
    """What the model writes for each number, greedily."""
    chats = [[{"role": "user", "content": number}] for number in numbers]
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


def show(console: Console, path: Path, numbers: list[str], device: str) -> None:
    """A row per task: how long the swap took, what the model then writes."""
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    store = taskstore.open(path)
    model = store.load_model(None, device=device)
    with tempfile.TemporaryDirectory() as scratch:
        files = store.write_assets(None, scratch)
        tokenizer = AutoTokenizer.from_pretrained(files, padding_side="left")
    table = Table(title="one live model, swapped in place")
    for column in ("task", "swap", "digest", *numbers):
        table.add_column(column, overflow="fold")
    with taskstore.attach(model, store) as family:
        family.swap(store.tasks[-1])  # the first swap also loads the compiled loop
        for task in store.tasks:
            began = time.perf_counter()
            family.swap(task)
            seconds = time.perf_counter() - began
            digest = family.verify().digest[:8]
            with family.using(task):
                texts = answer(model, tokenizer, numbers)
            table.add_row(task, f"{seconds * 1000:.1f} ms", digest, *texts)
        memory = family.memory()
        table.caption = (
            f"live {memory.live / 1e6:.1f} MB, D {memory.delta / 1e6:.1f} MB, "
            f"masks {memory.masks / 1e6:.1f} MB, in place of "
            f"{len(store.tasks) * memory.live / 1e6:.1f} MB for {len(store.tasks)} models"
        )
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description="Swap the example family's tasks in place.")
    parser.add_argument("store", type=Path)
    parser.add_argument("numbers", nargs="*", default=list(NUMBERS))
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    try:
        show(Console(), args.store, args.numbers, args.device)
    except taskstore.TaskstoreError as error:
        parser.exit(1, f"error: {error}\n")


if __name__ == "__main__":
    main()
