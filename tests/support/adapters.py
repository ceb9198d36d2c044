"""Adapters as PEFT saves them, made by hand: one of each kind that can be merged."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from tests.support import families

State = families.State
SHAPES = {
    "model.embed_tokens.weight": (20, 16),
    "model.layers.0.q_proj.weight": (24, 16),
    "model.layers.0.q_proj.bias": (24,),
    "model.layers.0.experts.up": (3, 16, 12),
    "model.norm.weight": (16,),
    "lm_head.weight": (20, 16),
}
IN = "base_model.model."
Q, EMBED = f"{IN}model.layers.0.q_proj", f"{IN}model.embed_tokens"
LORA: dict[str, Any] = {"peft_type": "LORA", "r": 2, "lora_alpha": 5}
PRODUCT: dict[str, tuple[int, ...]] = {f"{Q}.lora_A.weight": (2, 16), f"{Q}.lora_B.weight": (24, 2)}

# config, and the shapes of the adapter's tensors
KINDS: Mapping[str, tuple[dict[str, Any], dict[str, tuple[int, ...]]]] = {
    "lora": (LORA, PRODUCT),
    "rslora of rank 7": (
        {**LORA, "use_rslora": True},
        {f"{Q}.lora_A.weight": (7, 16), f"{Q}.lora_B.weight": (24, 7)},
    ),
    "dora": ({**LORA, "use_dora": True}, {**PRODUCT, f"{Q}.lora_magnitude_vector": (24,)}),
    "embedding": (
        LORA,
        {f"{EMBED}.lora_embedding_A": (2, 20), f"{EMBED}.lora_embedding_B": (16, 2)},
    ),
    "saved": (
        {**LORA, "modules_to_save": ["norm"]},
        {**PRODUCT, f"{IN}model.norm.weight": (16,), f"{IN}score.weight": (3, 16)},
    ),
    "tokens": (
        {**LORA, "trainable_token_indices": {"embed_tokens": [3, 19, 0]}},
        {**PRODUCT, f"{EMBED}.token_adapter.trainable_tokens_delta": (3, 16)},
    ),
    "ia3": ({"peft_type": "IA3"}, {f"{Q}.ia3_l": (24, 1)}),
    "experts": (
        {**LORA, "target_parameters": ["experts.up"]},
        {
            f"{IN}model.layers.0.experts.lora_A.weight": (6, 12),
            f"{IN}model.layers.0.experts.lora_B.weight": (16, 6),
        },
    ),
}


def base(root: Path, dtype: torch.dtype) -> Path:
    state = families.random_state(0, dtype, shapes=SHAPES)
    return families.save(root / "base", state, config={"tie_word_embeddings": False})


def save(root: Path, kind: str, dtype: torch.dtype = torch.float32, seed: int = 1) -> Path:
    """Write an adapter's folder."""
    config, shapes = KINDS[kind]
    draw = torch.Generator().manual_seed(seed)
    state = {
        name: (torch.randn(shape, generator=draw) * 0.1).to(dtype) for name, shape in shapes.items()
    }
    root.mkdir(parents=True)
    (root / "adapter_config.json").write_text(json.dumps(config, indent=2))
    (root / "README.md").write_text("---\nlibrary_name: peft\n---\n")
    save_file(state, root / "adapter_model.safetensors", metadata={"format": "pt"})
    return root
