"""Proves each attached state before the first swap: BLAKE3 of what swaps would write.

What lies beside the weights is proved itself, as it is in memory: D, masks, the base's weights,
vectors. A selection is W ^ (D & (m_live ^ m_t)) on a copy of a block of W, the live weights, which
`identify` proved; a tensor with a rest is rebuilt beside. Contents that are a task's own were
proved when they were read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from blake3 import blake3

from taskstore.errors import ChecksumMismatch
from taskstore.executors import Threads
from taskstore.store.base import BaseSource
from taskstore.store.catalog import label_of
from taskstore.swap.job import SwapJob
from taskstore.swap.lane import Lane
from taskstore.swap.states import Added, Masked, State, weight_bytes

Unit = tuple[int, State]  # the number of a lane's part


def prove(
    job: SwapJob,
    lanes: Sequence[Lane],
    active: State,
    base: BaseSource,
    report: Callable[[str, int], None],
) -> None:
    """Raise ChecksumMismatch unless every swap gives what the manifest records."""
    for lane in lanes:
        executor = job.executor if lane.parallel else Threads(1)
        units, parts = _units(job, lane, active), lane.parts
        for (i, state), found in executor.map(_digest, (lane, active), units):
            part = parts[i]
            recorded = job.store.manifest.tensors[part.source].blake3
            if state is not None:
                recorded = job.states.digest(state, part.live)
            if found != recorded:
                wrong = active if state is None and isinstance(part, Masked) else state
                _refuse(job, base, wrong, part, recorded, found)
            report(part.source, weight_bytes(part))


def work_of(job: SwapJob, lanes: Sequence[Lane], active: State) -> int:
    """Bytes that `prove` reports."""
    found = 0
    for lane in lanes:
        sizes = [weight_bytes(part) for part in lane.parts]
        found += sum(sizes[i] for i, _ in _units(job, lane, active))
    return found


def _units(job: SwapJob, lane: Lane, active: State) -> Iterator[Unit]:
    """The base's weights first: what gives them from the live ones gives the others too.

    A selection of the live state is live; a rest is added again whenever its task comes back.
    """
    for i, part in enumerate(lane.parts):
        for state in (None, *job.tasks):
            if state != active or isinstance(part, Added):
                yield i, state


def _digest(shared: tuple[Lane, State], unit: Unit) -> tuple[Unit, str]:
    (lane, active), (i, state), hashed = shared, unit, blake3()
    for block in lane.foreseen(i, active, state):
        hashed.update(block)
    return unit, hashed.hexdigest()


def _refuse(
    job: SwapJob, base: BaseSource, state: State, part: Masked | Added, recorded: str, found: str
) -> None:
    name = part.source if state is None else job.states.name_in(state, part.live)
    with job.store.reader(state, base, job.tier) as reader:
        what = f"tensor {name!r} of {label_of(state)}"
        raise ChecksumMismatch(what, recorded, found, reader.sources(name))
