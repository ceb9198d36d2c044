"""An engine of the example family that a test drives step by step, requests of all tasks in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from taskstore_serving.options import ServeOptions

import taskstore
from taskstore.swap.states import State
from tests.serving.support.engines import FAMILY, engine

TASKS: list[State] = [None, "english", "german", "roman"]
PROMPTS = ["<user>417<answer>", f"<user>{'1234567890' * 4}<answer>", "<user>2068<answer>"]
KINDS = ["greedy", "two", "digits"]
MODULE = "taskstore_serving.scheduler"
ROOMY, TIGHT = 64, 8  # blocks of the KV cache; a request takes up to 4, and one is vLLM's own
Job = tuple[State, str, str]
JOBS: list[Job] = [(t, p, kind) for t in TASKS for p in PROMPTS[:2] for kind in KINDS]


def example_store(root: Path) -> Path:
    """A folder with `store`, the tasks of the example family as masks, and the base's `assets`."""
    tasks = {task: FAMILY / task for task in TASKS if task}
    taskstore.pack(FAMILY / "base", tasks, root / "store", taskstore.PackOptions(tiers="mask"))
    taskstore.open(root / "store").write_assets(None, root / "assets")
    return root


@contextmanager
def serving(folders: Path, scheduler: str | None, blocks: int = ROOMY, **changes: Any) -> Any:
    """An engine with the store's tasks; None: vLLM's own scheduler."""
    own: dict[str, Any] = {"quantum": 0.0, "batching": "swap", "residual": 0}
    chosen = {name: changes.pop(name, usual) for name, usual in own.items()}
    options = {
        "dtype": "float32",
        "load_format": "taskstore",
        "model_loader_extra_config": ServeOptions(str(folders / "store"), **chosen).to_dict(),
        "worker_cls": "taskstore_serving.worker.TaskWorker",
        "scheduler_cls": scheduler and f"{MODULE}.{scheduler}",
        "block_size": 32,
        "num_gpu_blocks_override": blocks,
        "max_num_seqs": 4,
        **changes,
    }
    with engine(folders / "assets", **options) as llm:
        llm.llm_engine.input_processor.lora_config = SimpleNamespace(
            enable_tower_connector_lora=True
        )
        yield llm


def scheduler_of(llm: Any) -> Any:
    return llm.llm_engine.engine_core.engine_core.scheduler


def swaps(llm: Any) -> int:
    """Swaps that the engine's worker has made."""
    (state,) = llm.collective_rpc("taskstore_state")
    return int(state["swaps"])


def mixed_steps(llm: Any) -> int:
    """Steps of several tasks that the engine's worker has made."""
    (state,) = llm.collective_rpc("taskstore_state")
    return int(state["mixed_steps"])


def evicted(scheduler: Any) -> bool:
    """Whether a request in the engine gave up its blocks to another task's at some time."""
    return any(hasattr(one, "taskstore_evicted") for one in scheduler.requests.values())


def carrier(task: State) -> Any:
    from vllm.lora.request import LoRARequest

    return task and LoRARequest(task, TASKS.index(task), f"taskstore://{task}")


def sampling(kind: str) -> Any:
    from vllm import SamplingParams
    from vllm.sampling_params import StructuredOutputsParams

    if kind == "digits":
        only = StructuredOutputsParams(regex="[0-9]{12}")
        return SamplingParams(temperature=0, max_tokens=40, structured_outputs=only)
    if kind == "greedy":
        return SamplingParams(temperature=0, max_tokens=60, ignore_eos=True)
    return SamplingParams(temperature=1.0, seed=3, n=2, max_tokens=40, ignore_eos=True)


def add(llm: Any, name: str, task: State, prompt: str, how: Any, **more: Any) -> None:
    llm.llm_engine.add_request(name, prompt, how, lora_request=carrier(task), **more)


Answer = dict[int, list[int]]  # number of the choice -> its tokens


def drain(llm: Any, each_step: Callable[[int], None] = lambda step: None) -> dict[str, Answer]:
    """Step until all is done: every request's answer, in the order of their first tokens."""
    found: dict[str, Answer] = {}
    for step in range(4_000):
        if not llm.llm_engine.has_unfinished_requests():
            return found
        each_step(step)
        for output in llm.llm_engine.step():
            for one in output.outputs:
                found.setdefault(output.request_id, {})[one.index] = list(one.token_ids)
    raise AssertionError("the engine stalls")


@contextmanager
def ahead(patch: pytest.MonkeyPatch) -> Iterator[None]:
    """Async scheduling, which vLLM turns off on the CPU although it works there."""
    from vllm.platforms.cpu import CpuPlatform

    check = CpuPlatform.check_and_update_config.__func__

    def with_async(cls: Any, config: Any) -> None:
        check(cls, config)
        config.scheduler_config.async_scheduling = True

    with patch.context() as inner:
        inner.setattr(CpuPlatform, "check_and_update_config", classmethod(with_async))
        yield
