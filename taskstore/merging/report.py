"""What a merge made, for people and machines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


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

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "path": str(self.path)}
