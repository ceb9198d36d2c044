"""Tiny transformers models with a tokenizer of words, and their gradients as definitions read."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import transformers as tf
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor

WORDS = ["<pad>", "<unk>", "<eos>", "user", "assistant", "\n", *"abcdefghijklmnopqrs"]
TEMPLATE = (
    "{% for m in messages %}{{ m['role'] + ' ' + m['content'] + ' <eos> \n ' }}{% endfor %}"
    "{% if add_generation_prompt %}assistant {% endif %}"
)
TINY: dict[str, Any] = {
    "vocab_size": len(WORDS),
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 32,
    "pad_token_id": 0,
    "eos_token_id": 2,
    "initializer_range": 0.2,
}
PAIRS = [("a b c d", "e"), ("f", "g h i"), ("j k", "l m"), ("n o p q r", "s")]


def save_tokenizer(folder: Path, template: str | None = TEMPLATE) -> None:
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, "<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "removed")
    fast_class: Any = tf.PreTrainedTokenizerFast
    fast = fast_class(
        tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>", eos_token="<eos>"
    )
    fast.chat_template = template
    fast.save_pretrained(folder)


def save_model(folder: Path, model: Any, template: str | None = TEMPLATE) -> Path:
    model.save_pretrained(folder)
    save_tokenizer(folder, template)
    return folder


def llama(folder: Path, *, template: str | None = TEMPLATE, **changes: Any) -> Path:
    torch.manual_seed(0)
    return save_model(folder, tf.LlamaForCausalLM(tf.LlamaConfig(**TINY | changes)), template)


def bert(folder: Path, classes: int = 3) -> Path:
    torch.manual_seed(1)
    sizes = {k: v for k, v in TINY.items() if k not in ("num_key_value_heads", "eos_token_id")}
    config = tf.BertConfig(**sizes | {"num_labels": classes})
    return save_model(folder, tf.BertForSequenceClassification(config))


def reload(cls: Any, folder: Path) -> Any:
    return cls.from_pretrained(folder).eval()


def lines(folder: Path, records: Any) -> Path:
    path = folder / "data.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def pairs(folder: Path) -> Path:
    return lines(folder, [{"prompt": p, "answer": a} for p, a in PAIRS])


def texts(folder: Path, label: Callable[[int], Any] = lambda i: i % 3) -> Path:
    return lines(folder, [{"text": p, "label": label(i)} for i, (p, _) in enumerate(PAIRS)])


def ids(text: str) -> list[int]:
    return [WORDS.index(word) for word in text.split(" ")]


def chat(prompt: str, answer: str) -> tuple[list[int], list[int]]:
    return ids(f"user {prompt} <eos> \n assistant"), ids(f"{answer} <eos>")


def squared(model: Any, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    loss.backward(retain_graph=True)  # type: ignore[no-untyped-call]
    return {
        name: torch.zeros_like(p) if p.grad is None else p.grad**2
        for name, p in model.named_parameters()
    }


def agree(path: Path, kind: str, wanted: Mapping[str, Tensor], rtol: float = 1e-4) -> None:
    """Every tensor of `kind` in the file is the wanted one, and there are no others."""
    found = {k.partition("/")[2]: v for k, v in load_file(path).items() if k.startswith(kind)}
    assert set(found) == set(wanted)
    largest = max(value.abs().max().item() for value in wanted.values())
    assert largest > 0
    for name, value in wanted.items():  # an attention's key bias has no gradient but rounding
        atol = max(1e-6 * value.abs().max().item(), 1e-12 * largest)
        torch.testing.assert_close(found[name], value.detach(), rtol=rtol, atol=atol)


def answer_logp(model: Any, prompt: list[int], answer: list[int]) -> Tensor:
    """log p of every answer token given those before it, (A, V), from all logits."""
    logp = torch.log_softmax(model(input_ids=torch.tensor([prompt + answer])).logits[0], -1)
    return torch.stack([logp[len(prompt) + t - 1] for t in range(len(answer))])


def total(parts: list[dict[str, Tensor]], n: float) -> dict[str, Tensor]:
    return {name: sum((part[name] for part in parts), torch.tensor(0.0)) / n for name in parts[0]}


def vit(folder: Path) -> Path:
    torch.manual_seed(4)
    sizes: dict[str, Any] = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    sizes["num_labels"] = 2
    config = tf.ViTConfig(
        **sizes, num_attention_heads=2, image_size=4, patch_size=2, num_channels=1
    )
    model = tf.ViTForImageClassification(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.3)
    model.save_pretrained(folder)
    how = {"image_mean": [0.5], "image_std": [0.25], "rescale_factor": 1 / 255}
    (folder / "preprocessor_config.json").write_text(json.dumps(how))
    return folder
