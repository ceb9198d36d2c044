"""What `swap.py` measures of one family, in a process of its own: `worker.py ACTION JSON`.

The last line of output is one line of JSON: bytes, and seconds of every run of every way.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

import taskstore
from benchmarks.common.family import weights_of
from benchmarks.swapping import kernels as swap_kernels
from benchmarks.swapping import ways as swap_ways
from benchmarks.swapping.clock import in_turn, name_of
from benchmarks.swapping.module import build, copy_all, tensors_of
from benchmarks.swapping.process import Footprint, Others
from taskstore.store import Store
from taskstore.swap import Attached

Found = dict[str, Any]
Seconds = dict[str, list[float]]


@dataclass(frozen=True)
class Given:
    """A packed family, and where its models are."""

    store: Store
    base: Path
    tasks: Mapping[str, Path]
    device: str
    masks: Literal["host", "device"]
    repeat: int

    def attach(
        self, module: nn.Module, tasks: list[str] | None = None, *, prove: bool = True
    ) -> Attached:
        ignore = self.ignored
        return taskstore.attach(
            module, self.store, tasks, masks=self.masks, ignore=ignore, prove=prove
        )

    @property
    def ignored(self) -> list[str]:
        """What tasks have and the base has not: a module with the base's tensors has no place."""
        manifest = self.store.manifest
        names = {name for task in manifest.tasks.values() for name in task.tensors}
        return sorted(names - set(manifest.tensors))


def kernels(given: Found) -> Found:
    return {"elements": swap_kernels.ELEMENTS, "seconds": swap_kernels.measure(given["repeat"])}


def family(given: Found) -> Found:
    """All of one family, after a small one has loaded the compiled loops."""
    torch.set_num_threads(given["threads"])
    _warm_up(_given(given, "small"))
    return _measure(_given(given, "family"))


def _given(given: Found, which: str) -> Given:
    paths = given[which]
    return Given(
        taskstore.open(paths["store"]),
        Path(paths["base"]),
        {name: Path(path) for name, path in paths["tasks"].items()},
        given["device"],
        given["masks"],
        given["repeat"],
    )


def _warm_up(given: Given) -> None:
    given.store.state_dict(given.store.tasks[0], device=given.device)
    module = build(weights_of(given.base), given.device)
    with given.attach(module) as attached:
        for task in (*given.store.tasks, None):
            attached.swap(task)


def _measure(given: Given) -> Found:
    """Attaching comes first: what else is measured would be in the process's memory."""
    module, other = (build(weights_of(given.base), given.device) for _ in range(2))
    live = tensors_of(module)
    others = Others()
    footprint = Footprint(given.device)
    before = footprint.start()
    with given.attach(module) as attached:
        grown = {"grown": footprint.now() - before, "grown_peak": footprint.peak() - before}
        memory = attached.memory()
        seconds = _loads(given, other) | _swaps(given, attached, module, other)
        attached.swap(None)
        copy_all(live, tensors_of(other))
        seconds |= _fewer_tasks(given, attached, other)
        attached.verify()
    return {
        "parameters": sum(tensor.numel() for tensor in live),
        "live": sum(tensor.nbytes for tensor in live),
        "tasks": len(given.tasks),
        "ignored": given.ignored,
        "device": name_of(given.device),
        "others": others.cores(),
        "memory": asdict(memory) | {"total": memory.total} | grown,
        "seconds": seconds,
    }


def _loads(given: Given, other: nn.Module) -> Seconds:
    """A task onto the device, and all tasks to a module; `other` holds the base and keeps it."""
    ways = [
        swap_ways.load(given.store, given.device),
        swap_ways.load_file(given.tasks, given.device),
        swap_ways.attach("attach", lambda: given.attach(other), given.store),
        swap_ways.attach("attach, unproved", lambda: given.attach(other, prove=False), given.store),
    ]
    return in_turn(ways, given.repeat, given.device)


def _swaps(given: Given, attached: Attached, module: nn.Module, other: nn.Module) -> Seconds:
    """`other` takes what copies, files and deltas bring, and ends as no model at all."""
    ways = [
        swap_ways.swap("swap", attached, list(given.tasks)),
        swap_ways.copy(tensors_of(module), tensors_of(other)),
        swap_ways.delta(given.base, given.tasks, other, given.device),
        swap_ways.reload(given.tasks, other, given.device),
    ]
    return in_turn(ways, given.repeat, given.device)


def _fewer_tasks(given: Given, attached: Attached, other: nn.Module) -> Seconds:
    """Two tasks attached, to `other`, beside all; nothing where there are no more than two."""
    names = list(given.tasks)
    if len(names) < 3:
        return {}
    with given.attach(other, tasks=names[:2]) as fewer:
        ways = [
            swap_ways.swap("swap, all tasks", attached, names),
            swap_ways.swap("swap, 2 tasks", fewer, names[:2]),
        ]
        seconds = in_turn(ways, given.repeat, given.device)
        fewer.verify()
        return seconds


ACTIONS: dict[str, Callable[[Found], Found]] = {"family": family, "kernels": kernels}

if __name__ == "__main__":
    print(json.dumps(ACTIONS[sys.argv[1]](json.loads(sys.argv[2]))))
