"""What a merge made, for people and machines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from taskstore.format.dtypes import MASKED
from taskstore.locations.remote.mirror import address_of
from taskstore.merging.job import MergeJob


@dataclass(frozen=True)
class MergeReport:
    """What was made; `notes` are tensor or file -> why it is not merged as the others are."""

    path: Path
    method: str
    options: Mapping[str, float]
    alpha: float
    weights: Mapping[str, float]
    base: str
    models: list[str]
    tensors: int
    parameters: int
    bytes: int
    notes: Mapping[str, str]
    layer_weights: list[Mapping[str, float]] = field(default_factory=list)

    @classmethod
    def of(cls, job: MergeJob, target: Path) -> MergeReport:
        options, outputs = job.options, job.outputs.tensors.values()
        models = [task.name for task in job.family.tasks]
        return cls(
            path=target,
            method=options.method,
            options=dict(job.source.method.options),
            alpha=options.scale,
            weights=_of_all(options.weights, models),
            layer_weights=[_of_all(own, models) for own in options.layer_weights],
            base=job.family.base.name,
            models=models,
            tensors=sum(bool(output.tasks) for output in outputs),
            parameters=sum(output.info.numel for output in outputs if output.info.dtype in MASKED),
            bytes=sum(output.info.nbytes for output in outputs),
            notes=dict(job.outputs.notes),
        )

    def to_dict(self) -> dict[str, Any]:
        found = {**asdict(self), "path": str(address_of(self.path) or self.path)}
        if not self.layer_weights:
            del found["layer_weights"]
        return found


def _of_all(weights: Mapping[str, float], models: list[str]) -> dict[str, float]:
    return {name: weights.get(name, 1.0) for name in models}
