"""Finds which state is live: compares BLAKE3 of every tensor of the module with the manifest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from blake3 import blake3

from taskstore.errors import SwapError, UnknownWeights
from taskstore.executors import threads
from taskstore.format.digests import model_digest
from taskstore.store.catalog import label_of
from taskstore.swap.binding import Live
from taskstore.swap.job import SwapJob
from taskstore.swap.states import State

BLOCK = 16 << 20


@dataclass(frozen=True)
class Verified:
    """What was found live: every tensor has the checksum that the manifest records for the task.

    digest   one figure for the whole model, `format.digests.model_digest`
    """

    task: State
    tensors: int
    bytes: int
    digest: str


def live_digests(lives: Sequence[Live], jobs: int) -> dict[str, str]:
    """Name of each live tensor -> BLAKE3 of its bytes, in blocks where they are on a device."""
    return dict(threads(jobs).map(_digest, None, lives))


def _digest(_: None, live: Live) -> tuple[str, str]:
    state, flat = blake3(), live.flat
    for start in range(0, flat.numel(), BLOCK):
        state.update(flat[start : start + BLOCK].cpu().numpy())
    return live.name, state.hexdigest()


def identify(job: SwapJob) -> State:
    """The attached state that is live. Raises UnknownWeights or SwapError where none is."""
    lives, states, attached = job.lives, job.states, job.attached
    found = live_digests(lives, job.executor.jobs)
    every = [*attached, *(s for s in states.tensors if s not in attached)]
    wrong = {
        state: [live for live in lives if found[live.name] not in states.digests(state, live)]
        for state in every
    }
    nearest = min(every, key=lambda state: len(wrong[state]))
    if not wrong[nearest]:
        if nearest in attached:
            return nearest
        raise SwapError(
            f"the live weights are {label_of(nearest)}, which is not among the tasks to attach; "
            "add it to them, or load one of them first"
        )
    first, count = wrong[nearest][0], len(wrong[nearest])
    if count == len(lives):
        raise UnknownWeights(f"no tensor is the base's or a task's, {first.name!r} for one")
    raise UnknownWeights(
        f"{count} of {len(lives)} tensors are not those of {label_of(nearest)}, the nearest, "
        f"{first.name!r} for one; the module is changed or half loaded"
    )


def verify(job: SwapJob, active: State) -> Verified:
    """Prove that a state is live; raises UnknownWeights where a tensor is not as recorded."""
    lives, found = job.lives, live_digests(job.lives, job.executor.jobs)
    wrong = [live for live in lives if found[live.name] != job.states.digest(active, live)]
    if wrong:
        raise UnknownWeights(
            f"{len(wrong)} of {len(lives)} tensors are not those of {label_of(active)}, "
            f"{wrong[0].name!r} for one"
        )
    return Verified(active, len(lives), sum(live.nbytes for live in lives), model_digest(found))
