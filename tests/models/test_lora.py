"""LoRA adapters against what PEFT itself merges."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import taskstore
from taskstore.errors import CheckpointError
from taskstore.models import Checkpoint, open_checkpoint
from tests.support.families import bits, options

pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`:UserWarning"),
]


def llama() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=64,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            tie_word_embeddings=False,
        )
    )


def gpt2() -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=2))


LINEAR = ["q_proj", "v_proj", "down_proj"]
CASES: dict[str, tuple[Callable[[], Any], dict[str, Any]]] = {
    "plain": (llama, {"target_modules": LINEAR}),
    "rslora": (llama, {"target_modules": LINEAR, "use_rslora": True}),
    "patterns": (
        llama,
        {"target_modules": LINEAR, "rank_pattern": {"down_proj": 3},
         "alpha_pattern": {"layers.1.self_attn.q_proj": 40}},
    ),
    "saved": (llama, {"target_modules": LINEAR, "modules_to_save": ["lm_head"]}),
    "embedding": (llama, {"target_modules": ["embed_tokens", "q_proj"]}),
    "conv1d": (gpt2, {"target_modules": ["c_attn", "c_proj"], "fan_in_fan_out": True}),
}  # fmt: skip


def adapt(root: Path, make: Callable[[], Any], config: dict[str, Any], dtype: torch.dtype) -> Any:
    """Save a base and an adapter of it; returns the model that PEFT merges from them."""
    import peft

    model = make().to(dtype)
    model.save_pretrained(root / "base")
    adapted = peft.get_peft_model(
        model, peft.LoraConfig(r=4, lora_alpha=10, **config), autocast_adapter_dtype=False
    )
    torch.manual_seed(1)
    for name, weight in adapted.named_parameters():
        if "lora_" in name or "modules_to_save" in name:
            weight.data.normal_(0, 0.05)
    adapted.save_pretrained(str(root / "adapter"))
    return adapted.merge_and_unload()


def values(checkpoint: Checkpoint, name: str) -> torch.Tensor:
    info = checkpoint.tensors[name]
    step = 37  # blocks that do not end with rows
    raw = [
        checkpoint.read(name, start, min(start + step, info.numel))
        for start in range(0, info.numel, step)
    ]
    dtype = {"BF16": torch.bfloat16, "F32": torch.float32}[info.dtype]
    flat = torch.from_numpy(np.concatenate(raw).view(f"i{dtype.itemsize}"))
    return flat.view(dtype).reshape(info.shape)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("case", CASES)
def test_it_is_what_peft_merges(case: str, dtype: torch.dtype, tmp_path: Path) -> None:
    """fp32 within two ulps; bf16 within one rounding of the step that PEFT rounds first."""
    make, config = CASES[case]
    merged = adapt(tmp_path, make, config, dtype).state_dict()
    base = open_checkpoint(tmp_path / "base")
    adapter = open_checkpoint(tmp_path / "adapter", "t", base)
    moved = 0
    for name, info in adapter.tensors.items():
        ours, theirs = values(adapter, name), merged[name]
        assert ours.shape == theirs.shape, name
        assert tuple(info.shape) == tuple(theirs.shape)
        rtol, atol = (3e-7, 3e-8) if dtype == torch.float32 else (2**-7, 2**-10)
        torch.testing.assert_close(ours, theirs, rtol=rtol, atol=atol)
        moved += not torch.equal(bits(ours), bits(values(base, name)))
    assert moved >= (3 if case == "embedding" else 4)
    adapter.close()
    base.close()


def test_a_family_with_an_adapter(tmp_path: Path) -> None:
    adapt(tmp_path, llama, {"target_modules": LINEAR}, torch.bfloat16)
    state = load_file(tmp_path / "base" / "model.safetensors")
    full = {name: (w.float() * 1.01).to(w.dtype) for name, w in state.items()}
    (tmp_path / "full").mkdir()
    save_file(full, tmp_path / "full" / "model.safetensors")
    taskstore.pack(
        tmp_path / "base",
        {"full": tmp_path / "full", "lora": tmp_path / "adapter"},
        tmp_path / "store",
        options(lam=0.3),
    )
    store = taskstore.open(tmp_path / "store")
    store.unpack("lora", tmp_path / "model")
    assert (tmp_path / "model" / "config.json").exists()
    assert not (tmp_path / "model" / "adapter_config.json").exists()
    assert store.manifest.tasks["lora"].tensors["lm_head.weight"].ones == 0
    assert (store.manifest.tasks["lora"].tensors[f"{Q}.weight"].ones or 0) > 0
    from transformers import AutoModelForCausalLM

    assert AutoModelForCausalLM.from_pretrained(tmp_path / "model").config.hidden_size == 32


Q = "model.layers.0.self_attn.q_proj"


def spoil_config(**members: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "adapter_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **members}))

    return change


def spoil_weights(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        path = folder / "adapter_model.safetensors"
        state = load_file(path)
        change(state)
        save_file(state, path)

    return spoil


KEY = f"base_model.model.{Q}.lora_B.weight"
BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "DoRA without lengths": (spoil_config(use_dora=True), "has no lora_magnitude_vector"),
    "bias of LoRA": (spoil_config(lora_bias=True), "with lora_bias; merge it with PEFT first"),
    "another kind": (spoil_config(peft_type="OFT"), "other than LoRA, 'OFT'; merge it with PEFT"),
    "named another kind": (spoil_config(peft_type="IA3"), "of a kind not supported"),
    "no weights change": (spoil_config(peft_type="PROMPT_TUNING"), "changes no weight of its base"),
    "pattern": (spoil_config(alpha_pattern={"(": 1}), r"pattern '\(', which is more than"),
    "no JSON": (lambda f: (f / "adapter_config.json").write_text("{"), "read as JSON"),
    "no weights": (lambda f: (f / "adapter_model.safetensors").unlink(), "no adapter_model"),
    "B missing": (spoil_weights(lambda s: s.pop(KEY)), "not both lora_A and lora_B"),
    "wrong shape": (
        spoil_weights(lambda s: s.update({KEY: torch.zeros(7, 4)})), "do not make"),
    "unknown layer": (
        spoil_weights(lambda s: s.update({k.replace("q_proj", "zz"): s.pop(k)
                                          for k in list(s) if "q_proj" in k})),
        "has no weight for layer"),
    "magnitude": (
        spoil_weights(lambda s: s.update({KEY.replace("lora_B", "lora_magnitude_vector"):
                                          torch.zeros(3)})),
        "3 magnitudes for 32 outputs"),
    "integer": (spoil_weights(lambda s: s.update({KEY: s[KEY].int()})), "is I32"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_what_is_refused(name: str, tmp_path: Path) -> None:
    adapt(tmp_path, llama, {"target_modules": LINEAR}, torch.float32)
    spoil, message = BAD[name]
    spoil(tmp_path / "adapter")
    base = open_checkpoint(tmp_path / "base")
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(tmp_path / "adapter", "t", base)
    base.close()


def test_an_adapter_is_no_base(tmp_path: Path) -> None:
    adapt(tmp_path, llama, {"target_modules": LINEAR}, torch.float32)
    with pytest.raises(CheckpointError, match="it can be a fine-tune, not a base"):
        open_checkpoint(tmp_path / "adapter")
