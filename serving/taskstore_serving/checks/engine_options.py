"""Engine options with which a swap between steps would give wrong answers, or none."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from taskstore.errors import SwapError


def refuse(vllm_config: Any) -> None:
    """Raise SwapError for the first option that tasks cannot be served with."""
    for problem in _problems(vllm_config):
        raise SwapError(f"tasks cannot be served {problem}")


def _problems(config: Any) -> Iterator[str]:
    parallel, speculation = config.parallel_config, config.speculative_config
    if config.lora_config is not None:
        yield "beside LoRA adapters: their names are those of tasks; leave --enable-lora out"
    for short, cache in (("kv", "KV"), ("ec", "encoder cache")):
        transfer = getattr(config, f"{short}_transfer_config")
        if transfer is not None:
            connector = getattr(transfer, f"{short}_connector")
            yield (
                f"with the {cache} connector {connector!r}, which knows no tasks; "
                f"leave --{short}-transfer-config out"
            )
    if parallel.pipeline_parallel_size > 1:
        yield (
            f"with pipeline_parallel_size={parallel.pipeline_parallel_size}: its stages compute "
            "different steps at one time; use --tensor-parallel-size"
        )
    if config.weight_transfer_config is not None:
        yield "with weights that arrive while they run; leave --weight-transfer-config out"
    if speculation is not None:
        yield (
            f"with speculative decoding ({speculation.method!r}): drafts are not swapped and not "
            "tested; leave --speculative-config out"
        )
    coupled = parallel.enable_expert_parallel or config.model_config.is_moe
    if parallel.data_parallel_size > 1 and coupled:
        yield (
            f"with data_parallel_size={parallel.data_parallel_size} and experts: ranks that share "
            "experts would each choose a task; start one engine a replica"
        )
