"""A live engine whose steps hold tasks with rests, against swaps for one request at a time."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

import taskstore
from tests.serving.support.engines import FAMILY, need_vllm
from tests.serving.support.stepped import (
    PROMPTS,
    TASKS,
    Answer,
    add,
    drain,
    sampling,
    scheduler_of,
    serving,
)

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]
JOBS = [(task, prompt) for task in TASKS for prompt in PROMPTS[:2]]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The example family in float32, its tasks rests with parts of low rank."""
    need_vllm()
    root = tmp_path_factory.mktemp("rests")
    for task in TASKS:
        folder = shutil.copytree(FAMILY / (task or "base"), root / (task or "base"))
        for path in folder.glob("*.safetensors"):
            wide = {name: weight.float() for name, weight in load_file(path).items()}
            save_file(wide, path, {"format": "pt"})
    tasks = {task: root / task for task in TASKS if task}
    options = taskstore.PackOptions(tiers="rest", residual=0.75)
    taskstore.pack(root / "base", tasks, root / "store", options)
    taskstore.open(root / "store").write_assets(None, root / "assets")
    with serving(root, "TaskScheduler", batching="mixed", residual=1) as llm:
        yield llm


def state(llm: Any) -> dict[str, Any]:
    found: dict[str, Any] = llm.collective_rpc("taskstore_state")[0]
    return found


@pytest.fixture(scope="module")
def wanted(served: Any) -> dict[str, Answer]:
    """Answers one request at a time, each with its task's weights swapped in."""
    mixer = scheduler_of(served)._mixer
    found: dict[str, Answer] = {}
    drain(served)
    add(served, "first", *JOBS[0], sampling("greedy"))
    drain(served)  # the worker tells which tasks it can mix
    mixable, mixer.mixable = mixer.mixable, frozenset()
    counted = state(served)
    for number, job in enumerate(JOBS):
        add(served, str(number), *job, sampling("greedy"))
        found |= drain(served)
    mixer.mixable = mixable
    assert state(served)["mixed_steps"] == counted["mixed_steps"]
    assert state(served)["swaps"] >= counted["swaps"] + len(TASKS) - 1
    assert len({str(answer) for answer in found.values()}) > len(TASKS)
    assert served.reset_prefix_cache()
    return found


def test_rests_are_mixed_token_for_token(served: Any, wanted: dict[str, Answer]) -> None:
    before = state(served)
    assert {one["tier"] for one in before["tasks"].values()} == {"rest"}
    assert before["not_mixed"] == {}
    for number, job in enumerate(JOBS):
        add(served, str(number), *job, sampling("greedy"))
    assert drain(served) == wanted
    assert state(served)["mixed_steps"] - before["mixed_steps"] > 60


def test_a_task_that_goes_while_its_rows_are_in_the_step_ends_no_engine(
    served: Any, wanted: dict[str, Answer]
) -> None:
    """Over HTTP a removal waits for its requests. Where nothing does, they fail, and it goes on."""
    jobs = {str(n): job for n, job in enumerate(JOBS) if job[0] in ("german", "roman")}
    for name, job in jobs.items():
        add(served, name, *job, sampling("greedy"))
    served.llm_engine.step()
    served.collective_rpc("taskstore_remove", args=("german",))
    ends = {}
    while served.llm_engine.has_unfinished_requests():
        for output in served.llm_engine.step():
            (one,) = output.outputs
            ends[output.request_id] = (one.finish_reason, str(one.stop_reason))
    for name, (task, _) in jobs.items():
        if task == "german":
            assert ends[name][0] == "error" and "no task 'german'" in ends[name][1]
    assert served.reset_prefix_cache()
    others = {str(n): job for n, job in enumerate(JOBS) if job[0] != "german"}
    for name, job in others.items():
        add(served, name, *job, sampling("greedy"))
    assert drain(served) == {name: wanted[name] for name in others}
