"""What a step costs: one task's from its own weights, several tasks' mixed; seconds.

A step reads all weights once, and computes each row once. A mixed step reads D beside W0, and
rebuilds the weights of each task.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class StepCosts:
    """Of all matrices of a model.

    single       a step of one task: (fixed, each row)
    mixed        a mixed step: (fixed, each task, each row)
    """

    single: tuple[float, float]
    mixed: tuple[float, float, float]

    def of_single(self, rows: int) -> float:
        fixed, row = self.single
        return fixed + row * rows

    def of_mixed(self, tasks: int, rows: int) -> float:
        fixed, task, row = self.mixed
        return fixed + task * tasks + row * rows
