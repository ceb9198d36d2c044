"""Divides measuring into passes over the examples, so that sums and matrices fit in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from taskstore import devices
from taskstore.errors import NotEnoughMemory
from taskstore.statistics.grams import Linear, groups, linears
from taskstore.statistics.job import MeasureJob
from taskstore.statistics.measured_model import Subject
from taskstore.statistics.squares import kinds_of_sums

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Plan:
    """squares: per pass, y -> the kinds it gives; grams: per pass, layers."""

    squares: Sequence[dict[str, list[str]]]
    grams: Sequence[Sequence[Linear]]
    shapes: dict[tuple[str, str], Shape]  # kind and tensor, of all that will be written

    @property
    def passes(self) -> int:
        return len(self.squares) + len(self.grams)


def plan(job: MeasureJob) -> Plan:
    """Divide what is to be measured into passes; raises InputError or NotEnoughMemory."""
    subject, options = job.subject, job.options
    weights = sum(p.numel() * 4 for p in subject.parameters)
    most = options.max_memory or _default(subject, weights)
    sums = kinds_of_sums(job.encoder, options)
    if sums and 2 * weights > most:
        parts = {"weights": weights, "sums of squares": weights}
        raise NotEnoughMemory(options.device, parts, most, "raise `max_memory`")
    together = (1 + len(sums)) * weights <= most
    squares = [sums] if together else [{y: kinds} for y, kinds in sums.items()]
    layers = linears(subject) if "gram" in options.statistics else []
    shapes = {
        (kind, name): subject.checkpoint.tensors[name].shape
        for kind in options.diagonals
        for name in subject.names
    } | {("gram", name): (layer.inputs, layer.inputs) for layer in layers for name in layer.names}
    return Plan(squares if sums else [], groups(layers, most - weights), shapes)


def _default(subject: Subject, weights: int) -> int:
    """Weights, and three quarters of what is free beside them."""
    free = devices.free_memory(subject.device)
    return 1 << 62 if free is None else weights + free * 3 // 4
