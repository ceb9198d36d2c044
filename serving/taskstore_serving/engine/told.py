"""What the worker tells the scheduler, as an attribute of a step's output."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass
from typing import Any

from vllm.v1.outputs import AsyncModelRunnerOutput, ModelRunnerOutput

from taskstore.swap.states import State
from taskstore_serving.engine.costs import StepCosts

_NAME = "taskstore_told"


@dataclass(frozen=True)
class Told:
    """None where there is nothing new.

    swap_seconds  what the swap before the step took
    mixable       tasks that may be in one step with others, the base among them
    costs         what steps cost, as measured at start
    """

    swap_seconds: float | None = None
    mixable: frozenset[State] | None = None
    costs: StepCosts | None = None


def with_told(output: Any, told: Told) -> Any:
    """Add it to a step's output, ready or to come."""
    if isinstance(output, AsyncModelRunnerOutput):
        return _ToCome(output, told)
    carrying = copy(output)  # vLLM shares its empty one
    setattr(carrying, _NAME, told)
    return carrying


def told(output: Any) -> Told:
    """What a step's output carries."""
    found: Told = getattr(output, _NAME, None) or Told()
    return found


class _ToCome(AsyncModelRunnerOutput):
    def __init__(self, output: AsyncModelRunnerOutput, told: Told) -> None:
        self._output, self._told = output, told

    def get_output(self) -> ModelRunnerOutput:
        return with_told(self._output.get_output(), self._told)
