"""Carries a swap's cost from the worker to the scheduler, as an attribute of a step's output."""

from __future__ import annotations

from copy import copy
from typing import Any

from vllm.v1.outputs import AsyncModelRunnerOutput, ModelRunnerOutput

_NAME = "taskstore_swap_seconds"


def with_cost(output: Any, seconds: float) -> Any:
    """Make a step's output, ready or to come, say how long the swap before it took."""
    if isinstance(output, AsyncModelRunnerOutput):
        return _ToCome(output, seconds)
    carrying = copy(output)  # vLLM shares its empty one
    setattr(carrying, _NAME, seconds)
    return carrying


def cost(output: Any) -> float | None:
    """Seconds of the swap before a step; None where there was no swap."""
    seconds: float | None = getattr(output, _NAME, None)
    return seconds


class _ToCome(AsyncModelRunnerOutput):
    def __init__(self, output: AsyncModelRunnerOutput, seconds: float) -> None:
        self._output, self._seconds = output, seconds

    def get_output(self) -> ModelRunnerOutput:
        return with_cost(self._output.get_output(), self._seconds)
