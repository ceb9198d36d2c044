"""Results as JSON lines, one per family, method, setting and limit; a run adds to them."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

Key = tuple[str, str, str, int]


@dataclass(frozen=True)
class Result:
    """`bits` per weight and task, everything but the base; scores by task, on the test split."""

    family: str
    method: str
    setting: str
    limit: int
    bits: float
    scores: dict[str, float]
    originals: dict[str, float]
    seconds: float = 0.0
    notes: dict[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> Key:
        return self.family, self.method, self.setting, self.limit

    @property
    def kept(self) -> dict[str, float]:
        """Share of each fine-tune's score."""
        return {t: score / self.originals[t] for t, score in self.scores.items()}

    @property
    def mean(self) -> float:
        return sum(self.kept.values()) / len(self.kept)

    @property
    def worst(self) -> str:
        """The task that keeps least."""
        return min(self.kept, key=self.kept.__getitem__)

    def append(self, path: Path) -> None:
        derived = {"mean": self.mean, "worst": self.kept[self.worst], "worst_task": self.worst}
        with path.open("a") as file:
            file.write(json.dumps(asdict(self) | derived) + "\n")


def load(path: Path | None) -> dict[Key, Result]:
    """By key, the last line of a key counting; nothing where there is no file."""
    found = {}
    names = Result.__dataclass_fields__
    for line in path.read_text().splitlines() if path and path.exists() else ():
        entry = {name: value for name, value in json.loads(line).items() if name in names}
        result = Result(**entry)
        found[result.key] = result
    return found
