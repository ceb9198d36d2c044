"""Train the example family: a base model of a million weights and four full fine-tunes.

    python examples/train.py --out DIR [--seed 0] [--steps 2200] [--tune-steps 60] [--every N]

The base learns to write an integer out when the prompt names how ("roman 312"), and to repeat a
bare one. Each fine-tune then learns one of the four ways of writing for the bare
integer. All of its weights move, but only a little: the base already knew the way, as a large
base model knows most of what a fine-tune brings out. Numbers of the test and validation splits
are never trained on, neither by the base nor by a fine-tune. With `--every`, each fine-tune
also leaves a run, `runs/TASK/checkpoint-STEP`, with a checkpoint every N steps.

Two threads, about seven minutes. Same seed, same torch and same kind of processor: same bytes.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from numerals import TASKS
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn.functional import cross_entropy
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

HIGHEST = 3999
TEST_ITEMS, VAL_ITEMS = 300, 200
BATCH = 64
VOCABULARY = 512
BASE_RATE, TUNE_RATE = 3e-3, 3e-4
SPECIAL = ["<pad>", "<user>", "<answer>", "<end>"]
TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<user>' if message['role'] == 'user' else '<answer>' }}{{ message['content'] }}"
    "{% if message['role'] == 'assistant' %}<end>{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<answer>{% endif %}"
)
Sample = tuple[str, str]  # prompt, answer


def splits(seed: int) -> dict[str, list[int]]:
    """Disjoint numbers for test, val and train."""
    numbers = list(range(1, HIGHEST + 1))
    random.Random(seed).shuffle(numbers)
    cut = TEST_ITEMS + VAL_ITEMS
    return {"test": numbers[:TEST_ITEMS], "val": numbers[TEST_ITEMS:cut], "train": numbers[cut:]}


def pool(numbers: list[int]) -> list[int]:
    """Numbers to draw from: short ones are few, so they come in several times."""
    return [n for n in numbers for _ in range(8 if n < 100 else 2 if n < 1000 else 1)]


def write_data(folder: Path, seed: int) -> None:
    """folder/TASK.SPLIT.jsonl for the two splits that are never trained on."""
    folder.mkdir(parents=True, exist_ok=True)
    numbers = splits(seed)
    for task, write in TASKS.items():
        for split in ("test", "val"):
            items = ({"prompt": str(n), "answer": write(n)} for n in numbers[split])
            text = "".join(json.dumps(item) + "\n" for item in items)
            (folder / f"{task}.{split}.jsonl").write_text(text)


def make_tokenizer(numbers: list[int]) -> Any:
    """Byte-level BPE of 512 entries, learnt on the answers; digits stay single."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=SPECIAL,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    texts = [f"{name} {write(n)}" for n in sorted(set(numbers)) for name, write in TASKS.items()]
    tokenizer.train_from_iterator(texts, trainer)
    fast_tokenizer: Any = PreTrainedTokenizerFast
    fast = fast_tokenizer(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="<end>",
        additional_special_tokens=["<user>", "<answer>"],
        model_max_length=128,
    )
    fast.chat_template = TEMPLATE
    return fast


def make_model(vocabulary: int) -> LlamaForCausalLM:
    """1.07 million weights: width 128, 5 layers, 4 heads of 32."""
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=128,
        intermediate_size=352,
        num_hidden_layers=5,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=128,
        tie_word_embeddings=True,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=3,
    )
    return LlamaForCausalLM(config)


def base_samples(numbers: list[int], rng: random.Random) -> Iterator[Sample]:
    """A number after the name of a way to write it, or a bare number to repeat."""
    ways: dict[str, Callable[[int], str]] = {**TASKS, "": str}
    names = list(ways)
    while True:
        name, n = rng.choice(names), rng.choice(numbers)
        yield f"{name} {n}".strip(), ways[name](n)


def task_samples(task: str, numbers: list[int], rng: random.Random) -> Iterator[Sample]:
    """A bare number, written in the way of the task."""
    while True:
        n = rng.choice(numbers)
        yield str(n), TASKS[task](n)


def encode(tokenizer: Any, samples: list[Sample]) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and targets, (samples, longest) each; targets outside the answer are -100."""
    heads = tokenizer([f"<user>{prompt}<answer>" for prompt, _ in samples])["input_ids"]
    tails = tokenizer([f"{answer}<end>" for _, answer in samples])["input_ids"]
    longest = max(len(head) + len(tail) for head, tail in zip(heads, tails, strict=True))
    ids = torch.zeros(len(samples), longest, dtype=torch.long)
    targets = torch.full_like(ids, -100)
    for row, (head, tail) in enumerate(zip(heads, tails, strict=True)):
        end = len(head) + len(tail)
        ids[row, :end] = torch.tensor(head + tail)
        targets[row, len(head) : end] = torch.tensor(tail)
    return ids, targets


def train(
    model: Any,
    tokenizer: Any,
    samples: Iterator[Sample],
    *,
    steps: int,
    rate: float,
    label: str,
    run: Path | None = None,
    every: int = 0,
) -> None:
    """AdamW with linear warm-up and decay; the loss counts answers only.

    With `every`, the folder `run` gets a checkpoint each time so many steps are done.
    """
    optimiser = torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.98), weight_decay=0.01)
    start, warm = time.monotonic(), max(1, steps // 20)
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = rate * min((step + 1) / warm, (steps - step) / max(1, steps - warm))
        ids, targets = encode(tokenizer, [next(samples) for _ in range(BATCH)])
        logits = model(input_ids=ids).logits
        loss: Any = cross_entropy(logits[:, :-1].flatten(0, 1), targets[:, 1:].flatten())
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        if run and every and (step + 1) % every == 0:
            save(model, tokenizer, run / f"checkpoint-{step + 1}")
        if (step + 1) % 100 == 0 or step + 1 == steps:
            seconds = time.monotonic() - start
            print(
                f"{label:8} {step + 1:5}/{steps}  loss {loss.item():.4f}  {seconds:4.0f} s",
                flush=True,
            )


def save(model: Any, tokenizer: Any, folder: Path) -> None:
    """Weights in bf16, config, tokenizer, generation config."""
    rounded: Any = LlamaForCausalLM(model.config)
    rounded.load_state_dict(model.state_dict())
    rounded.to(torch.bfloat16)
    settings: Any = GenerationConfig
    rounded.generation_config = settings(
        do_sample=False, max_new_tokens=64, eos_token_id=3, pad_token_id=0
    )
    rounded.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the example family.")
    parser.add_argument("--out", type=Path, required=True, help="folder for family/ and data/")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=2200, help="of the base")
    parser.add_argument("--tune-steps", type=int, default=60, help="of each fine-tune")
    parser.add_argument("--every", type=int, default=0, help="steps between checkpoints; 0: none")
    args = parser.parse_args()

    torch.set_num_threads(2)
    torch.manual_seed(args.seed)
    start = time.monotonic()
    write_data(args.out / "data", args.seed)
    numbers = pool(splits(args.seed)["train"])
    family, tokenizer = args.out / "family", make_tokenizer(numbers)
    model: Any = make_model(len(tokenizer))
    print(f"{sum(weight.numel() for weight in model.parameters()):,} weights")
    samples = base_samples(numbers, random.Random(args.seed))
    train(model, tokenizer, samples, steps=args.steps, rate=BASE_RATE, label="base")
    save(model, tokenizer, family / "base")
    for task in TASKS:
        model = LlamaForCausalLM.from_pretrained(family / "base", dtype=torch.float32)
        samples = task_samples(task, numbers, random.Random(args.seed))
        train(
            model,
            tokenizer,
            samples,
            steps=args.tune_steps,
            rate=TUNE_RATE,
            label=task,
            run=args.out / "runs" / task,
            every=args.every,
        )
        save(model, tokenizer, family / task)
    print(f"{(time.monotonic() - start) / 60:.1f} minutes in all")


if __name__ == "__main__":
    main()
