"""Attaches a store to a live module: bind tensors, prove the weights, lay D and masks beside them.

`attach` is the main path; it only reads the module.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import ExitStack, closing
from typing import Literal

import torch
from torch import nn

from taskstore.errors import SwapError
from taskstore.executors import threads
from taskstore.progress import Callback, Meter, silent
from taskstore.public import public
from taskstore.store import Store
from taskstore.swap import memory, prove
from taskstore.swap.attached import Attached
from taskstore.swap.binding import Prefix
from taskstore.swap.from_store import Source, settle
from taskstore.swap.gate import Busy, Gate
from taskstore.swap.identify import identify
from taskstore.swap.job import SwapJob, SwapOptions, bound
from taskstore.swap.lane import Lane
from taskstore.swap.staged_lane import StagedLane
from taskstore.swap.states import State
from taskstore.swap.watch import Watch

_log = logging.getLogger(__name__)


@public
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
    prove: bool = True,
    jobs: int | None = None,
    progress: Callback = silent,
) -> Attached:
    """Put D and the masks of some tasks (None: of all) beside a module's weights.

    The module must hold the base or one of the tasks. Options are those of `SwapOptions`. Raises
    UnknownTask, ModuleMismatch, UnknownWeights, SwapError, NotEnoughMemory, FormatError or
    ChecksumMismatch; the module is as it was, whatever happens. Warns (ApproximationWarning) once
    of each task that `Store.fidelity` grades C or cannot grade, at the tier that is attached.

    >>> store = taskstore.open("numerals")
    >>> model = store.load_model("roman")
    >>> with taskstore.attach(model, store) as family:
    ...     family.swap("spanish")
    ...     family.active
    'spanish'
    """
    options = SwapOptions(masks, busy, prefix, ignore, tier, prove)
    job = bound(module, store, tasks, options, threads(jobs))
    tier = job.tier or "the best of each"
    _log.info("attaching %d tasks of %s: tier %s", len(job.tasks), store.where, tier)
    for task in job.tasks:
        store.warn_approximate(task, job.tier, 2)
    with ExitStack() as stack:
        watch = stack.enter_context(closing(Watch(module, job.lives)))
        settle(store, job.states, job.attached, job.executor)
        active = identify(job)
        lanes = [stack.enter_context(closing(lane)) for lane in _lanes(job)]
        memory.require((lane.device, lane.memory(len(job.tasks))) for lane in lanes)
        _check_files(job)
        _fill(job, lanes, active, progress)
        for lane in lanes:
            lane.start(active)
        watch.check()
        stack.pop_all()
    gate = Gate(options.busy)
    return Attached(job, lanes, watch, gate, gate.hook(module), active)


def _lanes(job: SwapJob) -> list[Lane]:
    """One lane per device that the module has tensors on; nothing is allocated."""
    masked, added, valued = job.states.plan(job.attached)
    found = list(dict.fromkeys(live.tensor.device for live in job.lives))
    if not found:
        raise SwapError("the module has no tensors to swap")
    return [
        lane_class(device, job.options)(
            device,
            [part for part in masked if part.live.tensor.device == device],
            [part for part in added if part.live.tensor.device == device],
            [part for part in valued if part.live.tensor.device == device],
        )
        for device in found
    ]


def lane_class(device: torch.device, options: SwapOptions) -> type[Lane]:
    """The kind of lane for a device; on the CPU host memory is the device's."""
    return Lane if device.type == "cpu" or options.masks == "device" else StagedLane


def _check_files(job: SwapJob) -> None:
    """Prove the files that the weights come from."""
    files = job.store.files_of(None, *job.tasks, tier=job.tier)
    weights = [path for path in files if not path.startswith("assets/")]
    job.store.check_files(weights, job.executor)


def _fill(job: SwapJob, lanes: Sequence[Lane], active: State, progress: Callback) -> None:
    """Stream D, masks and contents of all lanes from the store, and prove what they give."""
    for lane in lanes:
        lane.allocate(job.tasks)
    sizes = memory.add(lane.memory(len(job.tasks)) for lane in lanes)
    proving = prove.work_of(job, lanes, active) if job.options.prove else 0
    meter = Meter(progress, sizes.base + sizes.delta + sizes.masks + proving)
    with job.store.open_base(job.executor) as base:
        source = Source(job.store, base, job.executor)
        meter.stage("attaching", "base")
        source.bases([t for lane in lanes for t in lane.rests.base_targets()], meter.add)
        source.deltas([t for lane in lanes for t in lane.delta_targets()], meter.add)
        for task in job.tasks:
            meter.stage("attaching", task)
            source.masks(task, [t for lane in lanes for t in lane.mask_targets(task)], meter.add)
            for lane in lanes:
                for name, chunks in source.vectors(task, lane.rests.vector_targets(task)):
                    lane.rests.place(task, name, chunks)
        for state in job.attached:
            targets = [t for lane in lanes for t in lane.content_targets(state)]
            if targets:
                with job.store.reader(state, base, job.tier) as reader:
                    for target in targets:
                        source.contents(reader, *target)
        if job.options.prove:
            meter.stage("checking", "tasks")
            prove.prove(job, lanes, active, base, meter.add)
