"""A worker of vLLM's own whose linear layers keep their weights as they were loaded."""

from __future__ import annotations

from typing import Any

import torch
from taskstore_serving.weights import parameters
from vllm.v1.worker.cpu_worker import CPUWorker

from taskstore.swap.identify import live_digests


class UnpackedWorker(CPUWorker):  # type: ignore[misc]
    def load_model(self, *args: Any, **options: Any) -> None:
        from vllm.model_executor.layers import utils

        pack = utils.dispatch_cpu_unquantized_gemm
        utils.dispatch_cpu_unquantized_gemm = leave
        try:
            super().load_model(*args, **options)
        finally:
            utils.dispatch_cpu_unquantized_gemm = pack


def leave(layer: Any, remove_weight: bool) -> None:
    layer.cpu_linear = torch.nn.functional.linear


def digests(worker: Any) -> dict[str, str]:
    """BLAKE3 of all parameters of a worker, each memory once, in the order of a checkpoint."""
    model = worker.get_model()
    family: Any = getattr(model, "taskstore_family", None)
    lives = parameters.lives(model, [name for name, _ in model.named_parameters()])
    return live_digests([family.order.plain(x) for x in lives] if family else lives, 1)
