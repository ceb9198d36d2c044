"""What a user can choose when packing: one frozen object that travels whole."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from taskstore.errors import InputError
from taskstore.parallel import default_jobs

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_BINARY = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}

# Thresholds that need no data: the best single value, or next to it, on every family that was
# measured (docs/fidelity.md). With lsq the choice hardly matters between 0.4 and 0.6.
AUTO: Mapping[str, float] = {"lsq": 0.45, "sum": 0.5, "ties": 0.5}


@dataclass(frozen=True)
class PackOptions:
    """Raises InputError where a value makes no sense.

    method         "lsq", "sum" or "ties"; `density` is the share of weights that ties keeps
    lam, lambdas   mask threshold for all tasks (None: AUTO's of the method), and for single ones
                   by name
    tiers          "mask": TALL-masks over one multi-task model; "exact": every fine-tune bit for
                   bit, coded against the base alone, for archives
    base           "embed": carry the base losslessly coded; "reference": only where it is
    max_memory     bytes above the imports; fewer blocks are in flight when it is small
    chunk          elements that are coded together; part of the format, not of the machine
    shard_bytes    no file of the store is larger, unless one tensor is
    """

    lam: float | None = None
    lambdas: Mapping[str, float] = field(default_factory=dict)
    method: Literal["lsq", "sum", "ties"] = "lsq"
    density: float = 0.2
    tiers: Literal["mask", "exact"] = "mask"
    base: Literal["embed", "reference"] = "embed"
    jobs: int = field(default_factory=default_jobs)
    max_memory: int = 2 << 30
    overwrite: bool = False
    chunk: int = 1 << 18
    shard_bytes: int = 4 << 30

    def __post_init__(self) -> None:
        if self.method not in AUTO:
            raise InputError(f"method {self.method!r} is none of {', '.join(AUTO)}")
        for name, lam in (("all tasks", self.lam_of("")), *self.lambdas.items()):
            if not (math.isfinite(lam) and 0 <= lam <= 1000):
                raise InputError(f"lambda {lam} of {name} is not a number from 0 to 1000")
        if self.tiers not in ("mask", "exact"):
            raise InputError(f"tiers {self.tiers!r} is neither mask nor exact")
        if not 0 < self.density <= 1:
            raise InputError(f"density {self.density} is not in (0, 1]")
        if self.jobs < 1:
            raise InputError(f"jobs {self.jobs} is not a positive number")

    def check_tasks(self, tasks: Iterable[str]) -> None:
        """Every lambda by name must name a task."""
        unknown = sorted(set(self.lambdas) - set(tasks))
        if unknown:
            raise InputError(f"lambda is given for {unknown[0]!r}, which is no task of this family")

    def lam_of(self, task: str) -> float:
        """The task's own threshold, else the one for all, else the method's."""
        return self.lambdas.get(task, AUTO[self.method] if self.lam is None else self.lam)

    def in_flight(self, tasks: int, itemsize: int) -> int:
        """Blocks that may be in memory at once; raises InputError where not one fits."""
        block = self.chunk * (tasks * (itemsize + 5) + 8 + 10 * itemsize)
        fixed = 64 << 20  # headers, manifest, threads
        fits = (self.max_memory - fixed) // block
        if fits < 1:
            raise InputError(
                f"max-memory of {self.max_memory >> 20} MiB is too little for {tasks} tasks; "
                f"one block needs {(block + fixed + (1 << 20)) >> 20} MiB"
            )
        return int(min(fits, 2 * self.jobs + 1))


def parse_bytes(text: str) -> int:
    """ "2GiB", "500 MB", "1e9" -> bytes; raises InputError."""
    found = re.fullmatch(r"\s*([0-9.]+(?:e[0-9]+)?)\s*([KMGT]?)(i?)B?\s*", text, re.IGNORECASE)
    try:
        if not found:
            raise ValueError
        units = _BINARY if found[3] else _UNITS
        return int(float(found[1]) * units[found[2].upper()])
    except ValueError:
        raise InputError(f"{text!r} is not a size; write it like 2GiB or 500MB") from None
