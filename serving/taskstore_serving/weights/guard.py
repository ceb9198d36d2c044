"""Refuses engines in which swapping parameters in place would not change what is computed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

from torch import nn

from taskstore.errors import SwapError
from taskstore.executors import Executor
from taskstore.format.manifest import Manifest
from taskstore.store import Store
from taskstore.store.catalog import label_of, rebuilt_tensors
from taskstore.swap.binding import Live
from taskstore.swap.states import State
from taskstore_serving.checks.servable import check_servable, tier_of
from taskstore_serving.weights import parameters
from taskstore_serving.weights.groups import LoadGroup
from taskstore_serving.weights.streams import Streams

HEAD = "lm_head.weight"
WAY_OUT = "serve this model's tasks unpacked"


def check_compilation(config: Any) -> None:
    """Raise SwapError where compiled code would hold copies of the weights as constants."""
    from torch._inductor import config as inductor

    options = config.compilation_config.inductor_compile_config
    compiled = int(config.compilation_config.mode or 0) > 0
    on_cpu = config.device_config.device_type == "cpu"
    if compiled and (
        inductor.freezing or options.get("freezing") or (on_cpu and options.get("max_autotune"))
    ):
        raise SwapError(
            "inductor would freeze the weights into what it compiles, so tasks cannot be swapped; "
            "leave freezing and max_autotune out of the compilation config"
        )


def check_layers(model: nn.Module) -> None:
    """Raise SwapError, with its name, for a layer that does not compute from its parameters."""
    for name, module in model.named_modules():
        method = type(getattr(module, "quant_method", None)).__name__
        problem = ""
        if method != "NoneType" and not method.startswith("Unquantized"):
            problem = f"is quantised ({method}) while it is loaded"
        elif any(kind.__name__ == "MLAAttention" for kind in type(module).__mro__):
            problem = "computes from products of its weights (MLA)"
        if problem:
            raise SwapError(
                f"layer {name!r} {problem}, so tasks cannot be swapped in it; {WAY_OUT}"
            )


def check_heads(model: nn.Module, manifest: Manifest, tasks: Iterable[str], residual: int) -> None:
    """Raise SwapError for a head of a task's own where the engine ties it to the embedding."""
    places: dict[bool, set[int]] = {True: set(), False: set()}
    for name, tensor in parameters.tensors(model).items():
        places[name.endswith(HEAD)].add(tensor.data_ptr())
    head = next((name for name in manifest.tensors if name.endswith(HEAD)), None)
    if head is None or not places[True] & places[False]:
        return
    twins = {name for name in manifest.tensors if not name.endswith(HEAD)}
    states: list[State] = [None, *tasks]
    for state in states:
        tier = None if state is None else tier_of(manifest, state, residual)
        tensors = rebuilt_tensors(manifest, state, tier)
        if head not in tensors:  # a tie that was not saved
            continue
        mine = tensors[head].blake3
        twins = {name for name in twins if name in tensors and tensors[name].blake3 == mine}
        if not twins:
            raise SwapError(
                f"{label_of(state)} has a head of its own, {head!r}, and the engine ties it to the "
                "embedding; start it with --hf-overrides '{\"tie_word_embeddings\": false}'"
            )


class Guard:
    """Compares a model with its state when the base was loaded."""

    def __init__(self, model: nn.Module, lives: Iterable[Live], digests: Mapping[str, str]) -> None:
        self._lives, self._digests = list(lives), digests
        self._places = {name: t.data_ptr() for name, t in parameters.tensors(model).items()}

    def check(
        self, model: nn.Module, now: Mapping[str, str], swaps: Callable[[Live], bool]
    ) -> set[str]:
        """Names of live tensors that the engine changed and no swap writes.

        Raises SwapError where the model does not compute from the very memory that swaps write.
        """
        tensors, left = parameters.tensors(model), set[str]()
        written = {live.tensor.data_ptr(): live.name for live in self._lives if swaps(live)}
        for live in self._lives:
            there, problem = tensors.get(live.name), ""
            if there is None or there.numel() != live.tensor.numel():
                problem = "was removed or resized"
            elif there.data_ptr() != live.tensor.data_ptr():
                problem = "was moved"
            elif now[live.name] != self._digests[live.name]:
                problem = "was changed"
            if problem and live.tensor.data_ptr() in written:
                raise _spoilt(live.name, problem)
            if problem:
                left.add(live.name)
        for name, tensor in tensors.items():
            place = tensor.data_ptr()
            if place in written and self._places.get(name, place) != place:
                raise _spoilt(name, f"was tied to {written[place]!r}")
        return left


def _spoilt(name: str, problem: str) -> SwapError:
    return SwapError(
        f"weight {name!r} {problem} when the engine prepared it for computing, so tasks cannot be "
        f"swapped in it; {WAY_OUT}"
    )


def check_tasks(
    model: nn.Module, store: Store, tasks: Sequence[str], residual: int, executor: Executor
) -> None:
    """Check what tasks are served from, before any of it is read. Raises what `LiveFamily` does."""
    for task in tasks:
        store.check_task(task)
    check_servable(store.manifest, tasks, residual)
    tier = "rest" if residual else "mask"
    files = [f for f in store.files_of(None, *tasks, tier=tier) if not f.startswith("assets")]
    store.check_files(files, executor)
    check_heads(model, store.manifest, tasks, residual)


def check_touchable(
    untouchable: AbstractSet[str], group: LoadGroup, streams: Streams, task: str
) -> None:
    """Refuse a task that changes a weight that the engine prepared for computing."""
    spoilt = untouchable & {live.name for live in group.lives}
    if spoilt and streams.changed(task, group.names):
        raise SwapError(
            f"task {task!r} cannot be added to a running engine, which prepared weight "
            f"{min(spoilt)!r} for computing; start the engine again with the task"
        )
