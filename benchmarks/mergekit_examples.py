"""The recipes that mergekit shows as examples, on small models: its tensors beside ours.

    python benchmarks/mergekit_examples.py [--work DIR]

mergekit is installed into an environment of its own, as for benchmarks/merge.py. Models are random
Llamas of six layers in float32; ranges of 40 layers become ranges of six. Every recipe is merged by
both, in float32, and each tensor compared.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import torch
from rich.console import Console
from rich.table import Table
from safetensors.torch import load_file

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.common import envs

SIZES: dict[str, Any] = {"hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 6}
HEADS: dict[str, Any] = {"num_attention_heads": 4, "num_key_value_heads": 2}
ROOM: dict[str, Any] = {"vocab_size": 120, "max_position_embeddings": 64}
BY_KIND = {"t": [{"filter": "self_attn", "value": [0, 0.5, 0.3, 0.7, 1]},
                 {"filter": "mlp", "value": [1, 0.5, 0.7, 0.3, 0]}, {"value": 0.5}]}  # fmt: skip


def model(name: str, **parameters: Any) -> dict[str, Any]:
    return {"model": name, **({"parameters": parameters} if parameters else {})}


def part(name: str, start: int, stop: int) -> dict[str, Any]:
    return {"model": name, "layer_range": [start, stop]}


GRADIENT_SLERP = {
    "merge_method": "slerp",
    "slices": [{"sources": [part("one", 0, 6), part("two", 0, 6)]}],
    "base_model": "one",
    "parameters": BY_KIND,
}
# Name of the example -> its documents; of two, the second merges what the first wrote, `first`.
RECIPES: Mapping[str, list[dict[str, Any]]] = {
    "linear": [
        {
            "merge_method": "linear",
            "models": [model("one", weight=1.0), model("two", weight=0.3),
                       model("three", weight=0.5)],
        }
    ],
    "ties": [
        {
            "merge_method": "ties",
            "base_model": "base",
            "models": [
                model("one", density=[1, 0.7, 0.1], weight=1.0),
                model("two", density=0.5, weight=[0, 0.3, 0.7, 1]),
                model("three", density=0.33,
                      weight=[{"filter": "mlp", "value": 0.5}, {"value": 0}]),
            ],
            "parameters": {"normalize": True, "int8_mask": True},
        }
    ],
    "bio-merge": [
        {
            "merge_method": "ties",
            "base_model": "base",
            "models": [model(name, density=0.5, weight=0.5) for name in ("one", "two")],
            "parameters": {"normalize": False, "int8_mask": True},
        }
    ],
    "gradient-slerp": [GRADIENT_SLERP],
    "orcamini-platy-44layer": [
        {
            "merge_method": "passthrough",
            "slices": [{"sources": [part("one", 0, 4)]}, {"sources": [part("two", 3, 6)]}],
        }
    ],
    "mega": [
        GRADIENT_SLERP,
        {
            "merge_method": "ties",
            "base_model": "base",
            "models": [
                model("first", density=[1, 0.7, 0.1], weight=1.0),
                model("three", density=0.33,
                      weight=[{"filter": "mlp", "value": 0.5}, {"value": 0}]),
            ],
            "parameters": {"normalize": True, "int8_mask": True},
        },
    ],
    "arcee_fusion": [
        {
            "merge_method": "arcee_fusion",
            "base_model": "one",
            "models": [model("one"), model("two")],
        }
    ],
}  # fmt: skip


@click.command()
@click.option("--mergekit", help="Its command mergekit-yaml, where it is installed already.")
def main(mergekit: str | None) -> None:
    """Merge every example by both, and print how far the results are apart."""
    if mergekit is None:
        envs.ensure("mergekit")
        mergekit = str(envs.ROOT / "mergekit" / "bin" / "mergekit-yaml")
    table = Table("example", "largest difference", "weights that differ", "of")
    with TemporaryDirectory() as folder:
        work = Path(folder)
        _models(work)
        for name, documents in RECIPES.items():
            theirs, ours = (_merged(work, name, documents, command) for command in (
                shlex.split(mergekit), [sys.executable, "-m", "taskstore_cli", "merge", "--config"]
            ))  # fmt: skip
            table.add_row(name, *_compared(theirs, ours))
    Console().print(table)


def _models(work: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    base = LlamaForCausalLM(LlamaConfig(**SIZES, **HEADS, **ROOM)).float()
    base.save_pretrained(work / "base")
    start = {name: value.clone() for name, value in base.state_dict().items()}
    for number, name in enumerate(("one", "two", "three")):
        drawn = torch.Generator().manual_seed(number)
        changed = {
            key: value + (0.004 + 0.002 * number) * torch.randn(value.shape, generator=drawn)
            for key, value in start.items()
        }
        base.load_state_dict(changed)
        base.save_pretrained(work / name)


def _merged(work: Path, name: str, documents: list[Any], command: list[str]) -> Path:
    ours = "taskstore_cli" in command
    for number, document in enumerate(documents):
        target = work / f"{name}-{number}-{'ours' if ours else 'theirs'}"
        text = json.dumps({**document, "dtype": "float32"})
        for known in ("base", "one", "two", "three"):
            text = text.replace(f'"{known}"', f'"{work / known}"')
        before = work / f"{name}-0-{'ours' if ours else 'theirs'}"
        recipe = work / f"{target.name}.yaml"
        recipe.write_text(text.replace('"first"', f'"{before}"'))
        words = [str(recipe), *(["--unrelated", "-o"] if ours else []), str(target)]
        done = subprocess.run([*command, *words], capture_output=True, text=True)
        if done.returncode:
            raise click.ClickException(f"{' '.join(command)}: {done.stderr[-2000:]}")
    return target


def _compared(theirs: Path, ours: Path) -> tuple[str, str, str]:
    one, two = (_state(folder) for folder in (theirs, ours))
    if one.keys() != two.keys():
        return "tensors differ", ", ".join(sorted(one.keys() ^ two.keys())[:3]), ""
    apart = max(float((one[name] - two[name]).abs().max()) for name in one)
    differ = sum(int((one[name] != two[name]).sum()) for name in one)
    return f"{apart:.2g}", f"{differ:,}", f"{sum(value.numel() for value in one.values()):,}"


def _state(folder: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = {}
    for path in folder.glob("*.safetensors"):
        state |= load_file(path)
    return state


if __name__ == "__main__":
    main()
