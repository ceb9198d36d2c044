"""Tiny models of other architectures, and vLLM's models of them without an engine around."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from tests.support import families

VOCABULARY = 160  # no multiple of what vLLM pads to
COMMON: Mapping[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "intermediate_size": 96,
    "max_position_embeddings": 128,
    "dtype": "bfloat16",
}
CONFIGS: Mapping[str, Mapping[str, Any]] = {
    "llama": {**COMMON, "tie_word_embeddings": False},
    "qwen3": {**COMMON, "tie_word_embeddings": True},
    "qwen3_moe": {
        **COMMON,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 32,
        "decoder_sparse_step": 1,
    },
    "gpt2": {
        "vocab_size": VOCABULARY,
        "n_embd": 64,
        "n_layer": 2,
        "n_head": 4,
        "n_positions": 128,
        "dtype": "bfloat16",
    },
    "opt": {
        "vocab_size": VOCABULARY,
        "hidden_size": 64,
        "word_embed_proj_dim": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "ffn_dim": 96,
        "max_position_embeddings": 128,
        "dtype": "bfloat16",
    },
}


def family(root: Path, kind: str, head: bool = False) -> families.Family:
    """Random weights of an architecture, and two fine-tunes of them.

    With `head` all have a copy of their embedding as a head, but the second's is its own.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **CONFIGS[kind])
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(root / "made")
    from safetensors.torch import load_file

    state = load_file(root / "made" / "model.safetensors")
    tasks = {name: families.tuned(state, i, 0.02) for i, name in enumerate(("one", "two"))}
    if head:
        for one in (state, tasks["one"]):
            one["lm_head.weight"] = one["model.embed_tokens.weight"].clone()
        tasks["two"]["lm_head.weight"] = state["lm_head.weight"].clone()
    text = (root / "made" / "config.json").read_text()

    def saver(folder: Path, state: families.State, files: Any) -> Path:
        families.save(folder, state, files=files)
        (folder / "config.json").write_text(text)
        return folder

    return families.Family(root, state, tasks, saver)


@contextmanager
def loaded(model: Path, **changes: Any) -> Iterator[Any]:
    """vLLM's model of a folder, loaded as a worker loads it."""
    from taskstore_serving.plugin import register

    register()
    from vllm.config import set_current_vllm_config
    from vllm.distributed import (
        cleanup_dist_env_and_memory,
        ensure_model_parallel_initialized,
        init_distributed_environment,
    )
    from vllm.engine.arg_utils import EngineArgs
    from vllm.model_executor.layers import utils
    from vllm.model_executor.model_loader import get_model
    from vllm.v1.worker.cpu_model_runner import _set_torch_accelerator_to_noop

    from tests.serving.support.unpacked import leave

    _set_torch_accelerator_to_noop()  # as the CPU's worker does
    options = {"enforce_eager": True, "max_model_len": 64, "skip_tokenizer_init": True, **changes}
    config = EngineArgs(model=str(model), **options).create_engine_config()
    pack = utils.dispatch_cpu_unquantized_gemm
    utils.dispatch_cpu_unquantized_gemm = leave
    try:
        with set_current_vllm_config(config):
            where = f"file://{model.parent}/rendezvous-{torch.randint(1 << 60, ()).item()}"
            init_distributed_environment(1, 0, where, 0, "gloo")
            ensure_model_parallel_initialized(1, 1)
            yield get_model(vllm_config=config)
    finally:
        utils.dispatch_cpu_unquantized_gemm = pack
        cleanup_dist_env_and_memory()
