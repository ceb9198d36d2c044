"""Where a live tensor's parts come from in each task: W0, D, masks and rests.

They are what the kernels of its device take: numpy arrays on the CPU, tensors elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from taskstore.kernels.dispatch import kernel_for
from taskstore.swap.binding import Live
from taskstore_serving.weights.beside import Beside


@dataclass(frozen=True)
class Source:
    """Elements [start, start + n) of a live tensor: a region, or the span of a tensor of the store.

    A region's W0 is the live memory itself, good while the base is live.
    """

    name: str
    start: int
    w0_N: Any
    d_N: Any
    beside: Beside
    spanned: bool

    @property
    def n(self) -> int:
        return len(self.w0_N)

    def mask(self, task: str) -> Any:
        """A task's bits; None where it has none here."""
        rests = self.beside.lane.rests
        found = (rests.masks[task] if self.spanned else self.beside.masks(task)).get(self.name)
        if found is None or self.d_N is None:
            return None
        return kernel_for(self.beside.lane.device)[1](found, 1) if found.any() else None

    def chunks(self, task: str) -> Sequence[Any]:
        """A task's rest; empty where it has none."""
        rests = self.beside.lane.rests
        return rests.vectors[task].get(self.name, ()) if self.spanned else ()

    def changes(self, task: str) -> bool:
        """Whether a task differs from the base here."""
        return self.mask(task) is not None or bool(self.chunks(task))

    def give(self, matrix: Any, segment: int, task: str, number: int) -> None:
        """Tell a matrix what a task makes of this."""
        mask, chunks = self.mask(task), self.chunks(task)
        if mask is not None:
            matrix.mask(segment, number, mask)
        if chunks:
            matrix.rest(segment, number, chunks)


def sources(live: Live, beside: Beside) -> list[Source]:
    """All of a live tensor, in order."""
    size, rests = live.tensor.element_size(), beside.lane.rests

    def bits(memory: Tensor) -> Any:
        return kernel_for(beside.lane.device)[1](memory, size)

    found = [
        Source(part.live.name, part.start, bits(part.live.flat), bits(d), beside, False)
        for part in beside.regions
        if part.whole is live
        for d in [beside.deltas[part.live.name]]
    ]
    for span in beside.spans:
        if span.live is live:
            d = rests.deltas.get(span.source)
            base = bits(rests.bases[span.source])
            found.append(
                Source(span.source, span.start, base, None if d is None else bits(d), beside, True)
            )
    return sorted(found, key=lambda part: part.start)
