"""From a live module and a store to something that swaps: bind, plan, check, fill."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from taskstore.errors import InputError, SwapError
from taskstore.executors import default_jobs, threads
from taskstore.format.manifest import TIERS
from taskstore.progress import Callback, Meter, silent
from taskstore.store import Store
from taskstore.swap import memory
from taskstore.swap.attached import Attached
from taskstore.swap.binding import Live, Prefix, bind
from taskstore.swap.from_store import Source
from taskstore.swap.gate import Busy, Gate
from taskstore.swap.identify import identify
from taskstore.swap.lane import Lane
from taskstore.swap.staged_lane import StagedLane
from taskstore.swap.states import State, States
from taskstore.swap.watch import Watch


@dataclass(frozen=True)
class SwapOptions:
    """Raises InputError where a value makes no sense.

    masks    where the masks of the tasks wait: "host" memory, or the "device"
    busy     what a swap does while the module runs: "wait", "raise", or nothing at all
             ("unguarded": no hooks on the module, and the caller sees to it)
    prefix   start of a name in the module -> start of it in the store; one string stands before
             every name
    ignore   shell patterns of names in the store that are left alone
    tier     "mask", "rest" or "exact"; None is the first of these that all the tasks have
    """

    masks: Literal["host", "device"] = "host"
    busy: Busy = "wait"
    prefix: Prefix = ""
    ignore: Sequence[str] = ()
    tier: str | None = None

    def __post_init__(self) -> None:
        if self.masks not in ("host", "device"):
            raise InputError(f"masks={self.masks!r} is neither 'host' nor 'device'")
        if self.busy not in ("wait", "raise", "unguarded"):
            raise InputError(f"busy={self.busy!r} is none of 'wait', 'raise', 'unguarded'")
        if isinstance(self.ignore, str):
            raise InputError("ignore is a list of patterns, not one string")


def attach(
    module: nn.Module,
    store: Store,
    tasks: Sequence[str] | None = None,
    *,
    masks: Literal["host", "device"] = "host",
    busy: Busy = "wait",
    prefix: Prefix = "",
    ignore: Sequence[str] = (),
    tier: str | None = None,
    jobs: int | None = None,
    progress: Callback = silent,
) -> Attached:
    """Put D and the masks of some tasks (None: of all) beside a module's weights.

    The module must hold the base or one of the tasks. Options are those of `SwapOptions`. Raises
    UnknownTask, ModuleMismatch, UnknownWeights, SwapError, NotEnoughMemory, FormatError or
    ChecksumMismatch; the module is as it was, whatever happens.
    """
    options = SwapOptions(masks, busy, prefix, ignore, tier)
    jobs = jobs or default_jobs()
    chosen = _chosen(store, tasks)
    lives = bind(module, options.prefix, options.ignore)
    tier = _tier(store, chosen, options.tier)
    states = States(store.manifest, lives, options.ignore, tier)
    attached = states.choose(chosen)
    with ExitStack() as stack:
        watch = Watch(module, lives)
        stack.callback(watch.close)
        active = identify(lives, states, attached, jobs)
        lanes = _lanes(lives, states, attached, options)
        memory.require((lane.device, lane.memory(len(chosen))) for lane in lanes)
        store.check_files(_weights(store, chosen, tier), threads(jobs))
        for lane in lanes:
            stack.callback(lane.close)
        _fill(store, lanes, attached, tier, jobs, progress)
        for lane in lanes:
            lane.start(active)
        watch.check()
        stack.pop_all()
    gate = Gate(options.busy)
    return Attached(lives, states, attached, lanes, watch, gate, gate.hook(module), active, jobs)


def _chosen(store: Store, tasks: Sequence[str] | None) -> list[str]:
    if tasks is None:
        return store.tasks
    if isinstance(tasks, str):
        raise InputError("tasks is a list of names, not one string")
    for task in tasks:
        store.check_task(task)
    return list(dict.fromkeys(tasks))


def _tier(store: Store, tasks: Sequence[str], wanted: str | None) -> str | None:
    """The tier to attach; raises InputError where a task does not have the one that is wanted."""
    if wanted is None:
        return next((t for t in TIERS if all(t in store.tiers(task) for task in tasks)), None)
    for task in tasks:
        store.check_tier(task, wanted)
    return wanted


def _weights(store: Store, tasks: Sequence[str], tier: str | None) -> list[str]:
    files = store.files_of(None, *tasks, tier=tier)
    return [path for path in files if not path.startswith("assets/")]


def _lanes(
    lives: Sequence[Live], states: States, attached: Sequence[State], options: SwapOptions
) -> list[Lane]:
    masked, added, valued = states.plan(attached)
    found = list(dict.fromkeys(live.tensor.device for live in lives))
    if not found:
        raise SwapError("the module has no tensors to swap")
    return [
        lane_class(device, options)(
            device,
            [part for part in masked if part.live.tensor.device == device],
            [part for part in added if part.live.tensor.device == device],
            [part for part in valued if part.live.tensor.device == device],
        )
        for device in found
    ]


def lane_class(device: torch.device, options: SwapOptions) -> type[Lane]:
    """On the CPU host memory is the device's."""
    return Lane if device.type == "cpu" or options.masks == "device" else StagedLane


def _fill(
    store: Store,
    lanes: Sequence[Lane],
    attached: Sequence[State],
    tier: str | None,
    jobs: int,
    progress: Callback,
) -> None:
    """Stream D, masks and contents of all lanes from the store."""
    tasks = [state for state in attached if state is not None]
    for lane in lanes:
        lane.allocate(tasks)
    sizes = memory.add(lane.memory(len(tasks)) for lane in lanes)
    meter = Meter(progress, sizes.base + sizes.delta + sizes.masks)
    with store.open_base(threads(jobs)) as base:
        source = Source(store.location, store.manifest, base, jobs)
        meter.stage("attaching", "base")
        source.bases([t for lane in lanes for t in lane.additions.base_targets()], meter.add)
        source.deltas([t for lane in lanes for t in lane.delta_targets()], meter.add)
        for task in tasks:
            meter.stage("attaching", task)
            source.masks(task, [t for lane in lanes for t in lane.mask_targets(task)], meter.add)
            for lane in lanes:
                for name, chunks in source.vectors(task, lane.additions.vector_targets(task)):
                    lane.additions.vectors[task, name] = chunks
        for state in attached:
            targets = [t for lane in lanes for t in lane.content_targets(state)]
            if targets:
                with store.reader(state, base, tier) as reader:
                    for name, start, target in targets:
                        source.contents(reader, name, start, target)
