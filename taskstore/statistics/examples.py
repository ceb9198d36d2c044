"""What an example is, and what each kind of model (an Encoder) does with one.

Legend: A = answers of an example (its answer's tokens; 1 for a classifier), V = what each can be
(the vocabulary, the classes), L = tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Protocol

import torch
from torch import Tensor

from taskstore.statistics.records import Record


@dataclass(frozen=True)
class Example:
    """One input, without padding."""

    inputs: dict[str, Tensor]  # arguments of the model, each (1, ...)
    answers: int
    labels_A: Tensor | None  # the data's own; None where it has none
    truncated: bool = False

    @property
    def positions(self) -> int:
        ids = self.inputs.get("input_ids")
        return 0 if ids is None else ids.shape[1]

    @property
    def shape(self) -> tuple[tuple[int, ...], ...]:
        return tuple(tuple(value.shape) for value in self.inputs.values())


class Encoder(Protocol):
    """Records of a data file for one kind of model."""

    loss: str  # in words
    classes: bool  # whether all y can be summed over
    always: Mapping[str, Any] = {}  # further arguments of the model

    def encode(self, record: Record, needs_label: bool) -> Example:
        """Raises BadExample."""

    def logits(self, module: Any, example: Example) -> Tensor:
        """(A, V), of the answers alone."""

    def batch(self, wanted: int) -> int:
        """Examples of equal length that the model can take at once, up to `wanted`."""
        return wanted

    def run(self, module: Any, inputs: dict[str, Tensor]) -> Tensor:
        """One forward pass, all of it."""
        logits: Tensor = module(**inputs, **self.always).logits
        return logits


def batches(examples: Sequence[Example], size: int) -> Iterator[dict[str, Tensor]]:
    """Inputs of up to `size` examples of equal length, so that there is no padding at all."""
    for _, group in groupby(sorted(examples, key=lambda e: e.shape), key=lambda e: e.shape):
        same = list(group)
        for start in range(0, len(same), size):
            yield _together(same[start : start + size])


def _together(examples: Iterable[Example]) -> dict[str, Tensor]:
    every = [example.inputs for example in examples]
    return {name: torch.cat([inputs[name] for inputs in every]) for name in every[0]}
