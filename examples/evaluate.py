"""Greedy exact match of one model folder on one task of the example family.

    python examples/evaluate.py MODEL_DIR TASK [--split test|val] [--limit N]

prints one line of JSON: {"task", "split", "n", "score"}. Arithmetic is float32, on one thread: the
models are so small that a second thread saves nothing, and on a busy machine it waits for its core.
A task takes seconds.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

transformers_logging: Any = logging  # untyped
DATA = Path(__file__).resolve().parent / "data"
BATCH = 100

Item = dict[str, str]  # prompt, answer


def load_items(
    task: str, split: str = "test", limit: int | None = None, data: Path = DATA
) -> list[Item]:
    """The first `limit` prompts and answers; FileNotFoundError names the tasks there are."""
    path = data / f"{task}.{split}.jsonl"
    if not path.is_file():
        known = sorted({file.name.split(".")[0] for file in data.glob("*.jsonl")})
        raise FileNotFoundError(f"no task {task!r} with split {split!r}; tasks: {', '.join(known)}")
    items: list[Item] = [json.loads(line) for line in path.read_text().splitlines()]
    return items if limit is None else items[:limit]


def score(model_dir: Path | str, task: str, split: str = "test", limit: int | None = None) -> float:
    """Share of prompts whose greedy answer is exactly right."""
    items = load_items(task, split, limit)
    if not items:
        raise ValueError(f"no items to score: limit is {limit}")
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    tokenizer: Any = AutoTokenizer.from_pretrained(model_dir, padding_side="left")
    model: Any = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32)
    return share_right(model.eval(), tokenizer, items)


def share_right(model: Any, tokenizer: Any, items: list[Item]) -> float:
    """The same for a model in memory; the tokenizer pads on the left."""
    right = 0
    for start in range(0, len(items), BATCH):
        batch = items[start : start + BATCH]
        answers = _answer(model, tokenizer, batch)
        right += sum(a == item["answer"] for a, item in zip(answers, batch, strict=True))
    return right / len(items)


def _answer(model: Any, tokenizer: Any, batch: list[Item]) -> list[str]:
    """Greedy answers, cut where the longest right answer could have ended."""
    chats = [[{"role": "user", "content": item["prompt"]}] for item in batch]
    encoded = tokenizer.apply_chat_template(
        chats, add_generation_prompt=True, padding=True, return_tensors="pt", return_dict=True
    )
    longest = max(len(tokenizer(item["answer"])["input_ids"]) for item in batch)
    with torch.inference_mode():
        output = model.generate(
            input_ids=encoded["input_ids"],
            attention_mask=encoded["attention_mask"],
            max_new_tokens=longest + 1,
            do_sample=False,
        )
    new = output[:, encoded["input_ids"].shape[1] :]
    texts: list[str] = tokenizer.batch_decode(new, skip_special_tokens=True)
    return texts


def main() -> None:
    parser = argparse.ArgumentParser(description="Exact match of one model folder on one task.")
    parser.add_argument("model_dir", type=Path)
    parser.add_argument("task")
    parser.add_argument("--split", choices=["test", "val"], default="test")
    parser.add_argument("--limit", type=int)
    args = parser.parse_args()
    torch.set_num_threads(1)
    try:
        n = len(load_items(args.task, args.split, args.limit))
        result = score(args.model_dir, args.task, args.split, args.limit)
    except (FileNotFoundError, ValueError) as error:
        parser.error(str(error))
    print(json.dumps({"task": args.task, "split": args.split, "n": n, "score": round(result, 4)}))


if __name__ == "__main__":
    main()
