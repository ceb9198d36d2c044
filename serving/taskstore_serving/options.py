"""ServeOptions: what is served, one frozen object that travels to every process of the engine.

vLLM carries it as `model_loader_extra_config`, a dictionary of plain values.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from taskstore.errors import InputError
from taskstore.store import Store


@dataclass(frozen=True)
class ServeOptions:
    """What a user chooses to serve. Raises InputError where a value makes no sense.

    store      folder or address of the store
    tasks      tasks to serve; empty: all
    base_from  folder of a base that the store only references; "" where it carries it
    masks      where masks wait: "host" memory, or the "device"
    residual   how many tiers above the mask: 0, or 1 for the tier `rest` where a task has it
    quantum    seconds that a task keeps the engine while others wait; None: from the swap's cost
    default_task  the task of requests that name no model; "": the base
    watch      whether the server follows changes of the store: of the tasks that it serves, or of
               "all", so that new tasks are served too
    batching   whether a step may hold several tasks: "swap" never, "mixed" always where it can,
               "auto" where that is faster than a turn for each
    policy     whether a new request waits for whole turns of other tasks: not with "latency", nor
               with "auto" while a swap is quick
    """

    store: str
    tasks: tuple[str, ...] = ()
    base_from: str = ""
    masks: Literal["host", "device"] = "host"
    residual: Literal[0, 1] = 0
    quantum: float | None = None
    default_task: str = ""
    watch: Literal["no", "served", "all"] = "no"
    batching: Literal["swap", "mixed", "auto"] = "auto"
    policy: Literal["latency", "throughput", "auto"] = "auto"

    def __post_init__(self) -> None:
        if not self.store:
            raise InputError("no store to serve; name its folder")
        if isinstance(self.tasks, str):
            raise InputError("tasks is a list of names, not one string")
        object.__setattr__(self, "tasks", tuple(dict.fromkeys(self.tasks)))  # JSON has no tuples
        if self.masks not in ("host", "device"):
            raise InputError(f"masks={self.masks!r} is neither 'host' nor 'device'")
        if self.residual not in (0, 1):
            raise InputError(f"residual={self.residual!r} is neither 0 nor 1")
        if self.batching not in ("swap", "mixed", "auto"):
            raise InputError(f"batching={self.batching!r} is neither 'swap', 'mixed' nor 'auto'")
        if self.policy not in ("latency", "throughput", "auto"):
            raise InputError(f"policy={self.policy!r} is not 'latency', 'throughput' or 'auto'")
        if self.watch not in ("no", "served", "all"):
            raise InputError(f"watch={self.watch!r} is neither 'no', 'served' nor 'all'")
        if self.quantum is not None and not 0 <= self.quantum < float("inf"):
            raise InputError(f"quantum={self.quantum!r} is no time in seconds")

    @classmethod
    def parse(cls, given: Mapping[str, Any]) -> ServeOptions:
        """Make options of what `to_dict` gave; raises InputError for an unknown option."""
        known = [field.name for field in fields(cls)]
        for name in given:
            if name not in known:
                raise InputError(f"no serving option {name!r}; there are {', '.join(known)}")
        return cls(**{"store": "", **given})

    def open_store(self) -> Store:
        """Open the store as it is on disk now."""
        return Store(self.store, self.base_from or None)

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "tasks": list(self.tasks)}
