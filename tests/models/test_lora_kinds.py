"""Adapters as PEFT loads them on their base: initialisations, biases, mixed layers, new rows."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from taskstore.errors import CheckpointError, TaskstoreError
from taskstore.models import Checkpoint, open_checkpoint
from tests.support import families
from tests.support.broken import one_line

LINEAR = ["q_proj", "v_proj", "down_proj"]
SMALL: dict[str, Any] = {
    "vocab_size": 50, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": False,
}  # fmt: skip


def llama() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(LlamaConfig(**SMALL))


def qwen2() -> Any:
    """Its q, k and v have biases."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    return Qwen2ForCausalLM(Qwen2Config(**SMALL))


def gpt2() -> Any:
    """Conv1D everywhere but in its head."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config: dict[str, Any] = {
        "vocab_size": 50,
        "n_embd": 32,
        "n_layer": 2,
        "n_head": 4,
        "n_positions": 16,
    }
    return GPT2LMHeadModel(GPT2Config(**config, bos_token_id=0, eos_token_id=0,
                                      tie_word_embeddings=False))  # fmt: skip


Make = Callable[[], Any]
Case = tuple[Make, dict[str, Any]]
EXACT: dict[str, Case] = {
    "all biases": (qwen2, {"target_modules": ["q_proj"], "bias": "all"}),
    "biases of LoRA's layers": (qwen2, {"target_modules": ["q_proj"], "bias": "lora_only"}),
    "all biases of Conv1D": (gpt2, {"target_modules": ["c_attn"], "bias": "all"}),
    "fan_in_fan_out found by PEFT": (gpt2, {"target_modules": ["c_attn", "c_proj"]}),
    "norms and head saved": (
        llama, {"target_modules": LINEAR, "modules_to_save": ["lm_head", "norm"]}),
    "head and embedding": (llama, {"target_modules": ["embed_tokens", "lm_head"]}),
    "every linear layer": (llama, {"target_modules": "all-linear"}),
    "one layer of two": (llama, {"target_modules": LINEAR, "layers_to_transform": [1]}),
    "a pattern anchored": (
        llama, {"target_modules": LINEAR, "alpha_pattern": {"^model.layers.1.*q_proj": 64}}),
    "ranks of their own, rsLoRA": (
        llama, {"target_modules": LINEAR, "use_rslora": True, "rank_pattern": {"q_proj": 7}}),
    "a weight by its name": (
        llama, {"target_modules": ["q_proj"], "target_parameters": ["mlp.up_proj.weight"]}),
    "gaussian": (llama, {"target_modules": LINEAR, "init_lora_weights": "gaussian"}),
    "orthogonal": (llama, {"target_modules": LINEAR, "init_lora_weights": "orthogonal"}),
}  # fmt: skip
EITHER: dict[str, Case] = {
    "PiSSA": (llama, {"target_modules": LINEAR, "init_lora_weights": "pissa"}),
    "OLoRA": (llama, {"target_modules": LINEAR, "init_lora_weights": "olora"}),
    "layers copied": (llama, {"target_modules": LINEAR, "layer_replication": [[0, 1], [0, 1]]}),
    "Conv1D and Linear": (gpt2, {"target_modules": ["c_attn", "lm_head"]}),
    "square Conv1D and Linear": (gpt2, {"target_modules": r".*(attn\.c_proj|lm_head)"}),
}


def adapt(root: Path, make: Make, config: dict[str, Any], rows: int = 0) -> dict[str, torch.Tensor]:
    """Save a base and a trained adapter; what PEFT merges when it loads both from disk."""
    import peft

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT and transformers warn of what is meant here
        torch.manual_seed(0)
        model = make()
        model.save_pretrained(root / "base")
        if rows:
            model.resize_token_embeddings(rows, mean_resizing=False)
        adapted = peft.get_peft_model(model, peft.LoraConfig(r=4, lora_alpha=10, **config))
        for weight in adapted.parameters():
            if weight.requires_grad:
                weight.data += torch.randn(weight.shape) * 0.05
        adapted.save_pretrained(str(root / "adapter"))
        fresh = type(model).from_pretrained(root / "base")
        if rows:
            fresh.resize_token_embeddings(rows, mean_resizing=False)
        merged = peft.PeftModel.from_pretrained(fresh, root / "adapter").merge_and_unload()
    state: dict[str, torch.Tensor] = merged.state_dict()
    return state


def compare(root: Path, merged: dict[str, torch.Tensor]) -> int:
    """Every tensor within a rounding of float32 (two ulps); how many are not the base's."""
    base = open_checkpoint(root / "base")
    adapter = open_checkpoint(root / "adapter", "t", base)
    assert adapter.tensors.keys() == merged.keys()
    moved = 0
    for name, info in adapter.tensors.items():
        raw = adapter.read(name, 0, info.numel)
        ours = torch.from_numpy(raw.view(np.float32).copy()).reshape(info.shape)
        torch.testing.assert_close(ours, merged[name], rtol=3e-7, atol=6e-8, msg=name)
        shared = name in base.tensors and base.tensors[name] == info
        moved += not (shared and np.array_equal(raw, base.read(name, 0, info.numel)))
    adapter.close()
    base.close()
    return moved


@pytest.mark.parametrize("name", EXACT)
def test_it_is_what_peft_loads(name: str, tmp_path: Path) -> None:
    assert compare(tmp_path, adapt(tmp_path, *EXACT[name])) >= 2


@pytest.mark.parametrize("name", EITHER)
def test_what_is_not_plain_lora_is_exact_or_refused(name: str, tmp_path: Path) -> None:
    """PEFT changes the base's weights or layout as it loads them: they are not W + s B A."""
    merged = adapt(tmp_path, *EITHER[name])
    try:
        compare(tmp_path, merged)
    except CheckpointError as error:
        one_line(error, str(tmp_path / "adapter"))


def test_an_activated_adapter_is_refused(tmp_path: Path) -> None:
    """PEFT itself refuses to merge it: it works on some tokens only."""
    base, adapter = by_hand(tmp_path, config={"alora_invocation_tokens": [3, 4]})
    with pytest.raises(CheckpointError, match="alora_invocation_tokens"):
        open_checkpoint(adapter, "t", base)


def test_a_vocabulary_with_new_rows(tmp_path: Path) -> None:
    config = {"target_modules": ["q_proj", "embed_tokens", "lm_head"]}
    merged = adapt(tmp_path, llama, config, rows=54)
    assert merged["lm_head.weight"].shape == (54, 32)
    assert compare(tmp_path, merged) == 4


def test_an_adapter_in_a_pickle(tmp_path: Path) -> None:
    merged = adapt(tmp_path, llama, {"target_modules": LINEAR})
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    torch.save(load_file(file), file.with_suffix(".bin"))
    file.unlink()
    assert compare(tmp_path, merged) == 6


Q = "base_model.model.model.q.lora_"
AVERAGE = "base_model.model.model.average.weight"
BASE: families.State = {
    "model.q.weight": torch.arange(64.0).reshape(8, 8) / 64,
    "model.average.weight": torch.ones(8),
    "lm_head.weight": torch.ones(10, 8),
}


def by_hand(
    root: Path, config: object = (), tensors: dict[str, torch.Tensor] | None = None
) -> tuple[Checkpoint, Path]:
    """A base of three tensors and a folder with an adapter of one layer, changed as asked."""
    base = open_checkpoint(families.save(root / "base", BASE))
    adapter = root / "adapter"
    adapter.mkdir()
    plain = {"peft_type": "LORA", "r": 2, "lora_alpha": 4}
    whole = {**plain, **config} if isinstance(config, dict) else config or plain
    (adapter / "adapter_config.json").write_text(json.dumps(whole))
    state = {f"{Q}A.weight": torch.ones(2, 8), f"{Q}B.weight": torch.ones(8, 2)}
    save_file({**state, **(tensors or {})}, adapter / "adapter_model.safetensors")
    return base, adapter


@pytest.mark.parametrize(("config", "scale"), [({}, 2.0), ({"use_rslora": True}, 8**0.5),
    ({"alpha_pattern": {"q": 1}}, 0.5), ({"alpha_pattern": {"model.q": 6}}, 3.0),
    ({"alpha_pattern": {"k": 1, "odel.q": 1}}, 2.0), ({"lora_alpha": -1.5}, -0.75)])  # fmt: skip
def test_scales(tmp_path: Path, config: object, scale: float) -> None:
    base, adapter = by_hand(tmp_path, config)
    raw = open_checkpoint(adapter, "t", base).read("model.q.weight", 5, 39)
    expected = BASE["model.q.weight"].numpy().reshape(-1)[5:39] + np.float64(2 * scale)
    assert np.array_equal(raw.view(np.float32), expected.astype(np.float32))


CONFIGS = [
    {"lora_alpha": "much"}, {"lora_alpha": None}, {"lora_alpha": [1]}, {"lora_alpha": {}},
    {"alpha_pattern": ["q"]}, {"alpha_pattern": "q"}, {"alpha_pattern": 3},
    {"alpha_pattern": {"q": "x"}}, {"alpha_pattern": {"q": None}}, ["LORA"], 1, "LORA",
]  # fmt: skip


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_wrong_configs(tmp_path: Path, config: object) -> None:
    base, adapter = by_hand(tmp_path, config)
    with pytest.raises(CheckpointError, match="adapter"):
        open_checkpoint(adapter, "t", base)


SHAPES: dict[str, dict[str, torch.Tensor]] = {
    "rank 0": {"A": torch.empty(0, 8), "B": torch.empty(8, 0)},
    "a number for A": {"A": torch.tensor(1.0)},
    "a number for B": {"B": torch.tensor(1.0)},
    "a vector for A": {"A": torch.ones(8)},
    "another rank": {"A": torch.ones(3, 8)},
    "turned": {"A": torch.ones(8, 2), "B": torch.ones(2, 8)},
}


@pytest.mark.parametrize("name", SHAPES)
def test_wrong_shapes(tmp_path: Path, name: str) -> None:
    tensors = {f"{Q}{side}.weight": value for side, value in SHAPES[name].items()}
    base, adapter = by_hand(tmp_path, tensors=tensors)
    with pytest.raises(CheckpointError, match="model.q"):
        open_checkpoint(adapter, "t", base)


def test_names_that_only_look_like_another_kind(tmp_path: Path) -> None:
    """`average` holds the letters of VeRA; it is a module that was saved whole."""
    base, adapter = by_hand(tmp_path, tensors={AVERAGE: torch.zeros(8)})
    task = open_checkpoint(adapter, "t", base)
    assert not task.read("model.average.weight", 0, 8).any()


@pytest.mark.parametrize(
    "tensors",
    [{f"{Q}A.weight": torch.full((2, 8), torch.nan)}, {f"{Q}A.weight": torch.full((2, 8), 3e38)}],
    ids=["NaN", "overflow"],
)
def test_weights_that_are_not_finite_are_not_packed(
    tmp_path: Path, tensors: dict[str, torch.Tensor]
) -> None:
    import taskstore

    _, adapter = by_hand(tmp_path, tensors=tensors)
    with pytest.raises(TaskstoreError, match=r"'model\.q\.weight' holds NaN or Inf"):
        taskstore.pack(tmp_path / "base", {"t": adapter}, tmp_path / "store")
    assert not (tmp_path / "store").exists()
