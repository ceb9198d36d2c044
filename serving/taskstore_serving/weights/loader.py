"""`--load-format taskstore`: loads a store into vLLM's model, without unpacking it to disk."""

from __future__ import annotations

from typing import Any

from torch import nn
from vllm.config.load import LoadConfig
from vllm.model_executor.model_loader.base_loader import BaseModelLoader

from taskstore_serving.checks.engine_options import refuse
from taskstore_serving.options import ServeOptions
from taskstore_serving.weights import cores, cpu_kernels
from taskstore_serving.weights.family import LiveFamily
from taskstore_serving.weights.guard import check_compilation, check_layers


class TaskstoreLoader(BaseModelLoader):
    """Builds the family before vLLM processes the weights, and guards it afterwards."""

    def __init__(self, load_config: LoadConfig) -> None:
        super().__init__(load_config)
        self._options = ServeOptions.parse(load_config.model_loader_extra_config)

    def download_model(self, model_config: Any) -> None:
        """Do nothing: the store is there already."""

    def load_weights(self, model: nn.Module, model_config: Any) -> None:
        options = self._options
        check_layers(model)
        store = options.open_store()
        tasks = list(options.tasks) or store.tasks
        family: Any = LiveFamily(model, store, tasks, options.masks, options.residual)
        model.taskstore_family = family  # a plain attribute: not a module, and found by the worker
        cpu_kernels.keep_plain(model)

    def load_model(self, vllm_config: Any, model_config: Any, prefix: str = "") -> nn.Module:
        refuse(vllm_config)
        check_compilation(vllm_config)
        with cores.widened():
            model: nn.Module = super().load_model(vllm_config, model_config, prefix)
            cpu_kernels.multiply_plain(model)
            family: Any = model.taskstore_family
            family.guard(model)
            family.verify_all()
            if self._options.batching != "mixed":
                cpu_kernels.reorder(model, family)
        return model
