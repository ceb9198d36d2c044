"""Runs a step of several tasks in vLLM's model runner.

A step's rows of activations are the tokens that it computes, in the order of the runner's batch;
those of the head are a request's last token each, or the tokens of one prompt whose logprobs are
asked for. Both orders are known only inside the runner, so three of its methods are wrapped.

A mixed step runs what vLLM did not compile: compiled code and captured graphs hold
layers as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor
from vllm.config import CUDAGraphMode
from vllm.forward_context import get_forward_context
from vllm.platforms import current_platform

from taskstore.errors import SwapError
from taskstore.kernels.mixed.matrix import BASE
from taskstore.swap.states import State
from taskstore_serving.mixing.plan import Mixing
from taskstore_serving.options import ServeOptions

_WRAPPED = ("_model_forward", "_get_prompt_logprobs_dict", "input_batch", "query_start_loc")


def fits(runner: Any, options: ServeOptions) -> bool:
    """Whether a runner computes all of a step in the methods that are wrapped.

    On a GPU only where it is asked for, with masks there, and by vLLM's first model runner: no card
    has run it.
    """
    others = runner.is_pooling_model or runner.supports_mm_inputs or runner.enable_prompt_embeds
    if others or runner.model_config.is_encoder_decoder:
        return False
    wanted = options.batching == "mixed" and options.masks == "device"
    known = all(hasattr(runner, name) for name in _WRAPPED)
    return bool(current_platform.is_cpu() or (current_platform.is_cuda() and wanted and known))


class MixedSteps:
    """Of one model runner."""

    count = 0  # steps of several tasks, or of one as if there were several
    _tasks: Mapping[str, int] | None = None  # of the step's requests, by number

    def __init__(self, runner: Any, mixing: Mixing) -> None:
        self._runner, self.mixing = runner, mixing
        self._forward, runner._model_forward = runner._model_forward, self._model_forward
        self._prompts = runner._get_prompt_logprobs_dict
        runner._get_prompt_logprobs_dict = self._prompt_logprobs
        self._compute, runner.model.compute_logits = runner.model.compute_logits, self._logits
        self._hidden: Tensor | None = None

    def end(self) -> None:
        """Have the next step be one of what is live."""
        self._tasks = None

    def begin(self, tasks: Mapping[str, State]) -> None:
        """Say whose the next step's requests are, by the names of the requests.

        Raises UnknownTask for one that is not served, and SwapError for one that cannot be mixed.
        """
        for task in set(tasks.values()):
            if why := self.mixing.unmixable(task):
                raise SwapError(f"task {task!r} cannot be in a mixed step: {why}")
        self._tasks = {name: self.mixing.number(task) for name, task in tasks.items()}
        self.count += 1

    def _model_forward(self, *args: Any, **named: Any) -> Any:
        if self._tasks is None:
            return self._forward(*args, **named)
        batch, starts = self._runner.input_batch, self._runner.query_start_loc.np
        numbers = self._by_request()
        rows = np.repeat(numbers, np.diff(starts[: batch.num_reqs + 1]))
        padding = named["positions"].shape[-1] - len(rows)
        self._rows = np.pad(rows, (0, padding), constant_values=BASE)
        self.mixing.step.show(self._rows)
        context = get_forward_context()
        context.skip_compiled, context.cudagraph_runtime_mode = True, CUDAGraphMode.NONE
        with self.mixing.active():
            return self._forward(*args, **named)

    def _logits(self, hidden_states: Tensor, *args: Any, **named: Any) -> Any:
        if self._tasks is None:
            return self._compute(hidden_states, *args, **named)
        rows = self._by_request()
        if self._hidden is not None:  # a slice of one prompt
            size = self._hidden.stride(0) * self._hidden.element_size()
            first = (hidden_states.data_ptr() - self._hidden.data_ptr()) // size
            rows = self._rows[first : first + len(hidden_states)]
        self.mixing.step.show(rows)
        with self.mixing.active():
            return self._compute(hidden_states, *args, **named)

    def _prompt_logprobs(self, hidden_states: Tensor, *args: Any, **named: Any) -> Any:
        self._hidden = hidden_states
        try:
            return self._prompts(hidden_states, *args, **named)
        finally:
            self._hidden = None

    def _by_request(self) -> Any:
        """The number of the task of each request of the batch."""
        assert self._tasks is not None
        names = self._runner.input_batch.req_ids
        return np.array([self._tasks[name] for name in names], np.int32)
