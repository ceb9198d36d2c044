"""Swaps that fail inside a step of a live engine: their requests end, and all others go on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from tests.serving.support.engines import need_vllm
from tests.serving.support.stepped import (
    PROMPTS,
    TASKS,
    add,
    ahead,
    drain,
    example_store,
    sampling,
    scheduler_of,
    serving,
)
from tests.serving.test_scheduler import nothing_left

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]
JOBS = [(task, prompt) for task in TASKS for prompt in PROMPTS[:2]]
Ends = dict[int, tuple[list[int], str, Any]]  # of a job: tokens, finish reason, stop reason


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    need_vllm()
    return example_store(tmp_path_factory.mktemp("served"))


def run(llm: Any, name: str) -> Ends:
    """All jobs at once."""
    for number, job in enumerate(JOBS):
        add(llm, f"{name}-{number}", *job, sampling("greedy"))
    found: Ends = {}
    while llm.llm_engine.has_unfinished_requests():
        for output in llm.llm_engine.step():
            (one,) = output.outputs
            number = int(output.request_id.rsplit("-")[-1])
            found[number] = (list(one.token_ids), one.finish_reason, one.stop_reason)
    return found


@contextmanager
def breaking(lane: Any, task: str) -> Iterator[dict[str, int]]:
    """Make the next swap that brings a task fail in the middle, and what takes it back."""
    faults = {"left": 2}

    def run(units: Any, old: Any, new: Any, done: Any) -> None:
        if faults["left"] and task in (old, new):
            if new == task:
                type(lane).run(lane, islice(units, 3), old, new, done)
            faults["left"] -= 1
            raise RuntimeError("the bus is gone")
        type(lane).run(lane, units, old, new, done)

    lane.run = run
    try:
        yield faults
    finally:
        del lane.run


@pytest.mark.parametrize("scheduler", ["TaskScheduler", "AsyncTaskScheduler"])
def test_a_failed_swap_ends_the_requests_of_its_step_alone(
    folders: Path, scheduler: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of the weights are swapped when it fails, and taking it back fails too."""
    from taskstore_serving.engine.failed_step import FAILED

    with (
        ahead(monkeypatch) if scheduler.startswith("Async") else nullcontext(),
        serving(folders, scheduler) as llm,
    ):
        wanted = run(llm, "whole")
        assert {why for _, why, _ in wanted.values()} == {"length"}
        assert llm.reset_prefix_cache()
        (lane,) = llm.collective_rpc(lambda worker: worker.taskstore_family.beside.lane)
        with breaking(lane, "german") as faults:
            found = run(llm, "broken")
            assert faults["left"] == 0
        failed = {number for number, (_, why, _) in found.items() if why == "error"}
        assert failed and {JOBS[number][0] for number in failed} == {"german"}
        assert all(found[number][2].startswith(FAILED) for number in failed)
        assert all(found[n] == wanted[n] for n in wanted if n not in failed)
        assert run(llm, "again") == wanted  # nothing uncomputed is in the prefix cache
        (proofs,) = llm.collective_rpc("taskstore_verify")
        assert len(proofs) == len(TASKS)
        (told,) = llm.collective_rpc("taskstore_activity", args=(0,))
        assert [event["task"] for event in told["swaps_made"] if event["kind"] == "failed"] == [
            "german"
        ]
        drain(llm)
        llm.llm_engine.step()
        assert nothing_left(llm) and scheduler_of(llm).running == []
