"""The options of `attach`, and the job that travels from it to the last swap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import nn

from taskstore.errors import InputError
from taskstore.executors import Executor
from taskstore.format.manifest import TIERS
from taskstore.store import Store
from taskstore.swap.binding import Live, Prefix, bind
from taskstore.swap.gate import Busy
from taskstore.swap.states import State, States, differing


@dataclass(frozen=True)
class SwapOptions:
    """What a user chooses; raises InputError where a value makes no sense.

    masks    where the masks of the tasks wait: "host" memory, or the "device"
    busy     what a swap does while the module runs: "wait", "raise", or nothing at all
             ("unguarded": no hooks on the module, and the caller sees to it)
    prefix   start of a name in the module -> start of it in the store; one string stands before
             every name; "" is found by itself where one start fits
    ignore   shell patterns of names in the store that are left alone
    tier     "mask", "rest" or "exact"; None is the first of these that all the tasks have
    prove    hash every tensor of every task as swaps would give it before the first swap; without
             it, a section that was changed and whose file's checksum was made to fit goes unseen
             until `Attached.verify`
    """

    masks: Literal["host", "device"] = "host"
    busy: Busy = "wait"
    prefix: Prefix = ""
    ignore: Sequence[str] = ()
    tier: str | None = None
    prove: bool = True

    def __post_init__(self) -> None:
        if self.masks not in ("host", "device"):
            raise InputError(f"masks={self.masks!r} is neither 'host' nor 'device'")
        if self.busy not in ("wait", "raise", "unguarded"):
            raise InputError(f"busy={self.busy!r} is none of 'wait', 'raise', 'unguarded'")
        if isinstance(self.ignore, str):
            raise InputError("ignore is a list of patterns, not one string")


@dataclass(frozen=True)
class SwapJob:
    """A module and the states of a store that it is to swap between.

    tier      the tier that is attached; None where the tasks have none in common
    lives     the module's tensors
    states    what the base and each task make of them
    attached  the states to swap between: the tasks, and the base where it fits
    executor  decodes and hashes
    """

    store: Store
    options: SwapOptions
    tier: str | None
    lives: Sequence[Live]
    states: States
    attached: Sequence[State]
    executor: Executor

    @property
    def tasks(self) -> list[str]:
        """The attached states without the base."""
        return [state for state in self.attached if state is not None]


def bound(
    module: nn.Module,
    store: Store,
    tasks: Sequence[str] | None,
    options: SwapOptions,
    executor: Executor,
) -> SwapJob:
    """Bind the module's tensors to the store's, and find the states that fit them.

    Raises UnknownTask, InputError, ModuleMismatch or SwapError.
    """
    chosen = _chosen(store, tasks)
    tier = _tier(store, chosen, options.tier)
    wanted = differing(store.manifest, chosen, tier, options.ignore)
    lives = bind(module, options.prefix, options.ignore, wanted)
    states = States(store.manifest, lives, options.ignore, tier, wanted)
    attached = states.choose(chosen)
    return SwapJob(store, options, tier, states.bound(), states, attached, executor)


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
