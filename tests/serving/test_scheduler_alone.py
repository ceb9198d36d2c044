"""The schedulers without an engine: steps are made, and answered as a worker would answer them.

`test_next_vllm.py` runs this file under the next vLLM, too.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from taskstore_serving.options import ServeOptions

from tests.serving.support.engines import FAMILY, need_vllm

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]
BLOCK = 16
LONG = list(range(3, 3 + 2 * BLOCK + 4))  # a prompt of two whole blocks and a part


class Alone:
    """A scheduler, and what it tells."""

    def __init__(self, config: Any, name: str) -> None:
        import torch
        from taskstore_serving import scheduler
        from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
        from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
        from vllm.v1.structured_output import StructuredOutputManager

        spec = FullAttentionSpec(block_size=BLOCK, num_kv_heads=1, head_size=8, dtype=torch.float32)
        groups = [KVCacheGroupSpec(["layer"], spec)]
        blocks = KVCacheConfig(num_blocks=40, kv_cache_tensors=[], kv_cache_groups=groups)
        config.scheduler_config.async_scheduling = name.startswith("Async")
        config.cache_config.num_gpu_blocks = 40
        init_none_hash(hash)
        self._hasher = get_request_block_hasher(BLOCK, lambda value: repr(value).encode())
        manager = StructuredOutputManager(config)
        self.scheduler = getattr(scheduler, name)(config, blocks, manager, block_size=BLOCK)
        self.ends: dict[str, tuple[str, Any]] = {}

    def add(self, name: str, task: str | None, prompt: list[int] = LONG, tokens: int = 3) -> None:
        from vllm import SamplingParams
        from vllm.lora.request import LoRARequest
        from vllm.v1.request import Request

        how = SamplingParams(max_tokens=tokens, ignore_eos=True)
        lora = task and LoRARequest(task, 1 + len(task), f"taskstore://{task}")
        self.scheduler.add_request(
            Request(
                request_id=name,
                prompt_token_ids=prompt,
                sampling_params=how,
                pooling_params=None,
                lora_request=lora,
                block_hasher=self._hasher,
            )
        )

    def answer(self, step: Any, why: str | None = None) -> None:
        """A token for each request of a step; or why the step failed."""
        from taskstore_serving.engine import failed_step
        from vllm.v1.outputs import EMPTY_MODEL_RUNNER_OUTPUT, ModelRunnerOutput

        names = list(step.num_scheduled_tokens)
        places = {name: place for place, name in enumerate(names)}
        output = ModelRunnerOutput(names, places, [[7] for _ in names])
        if why is not None:
            output = failed_step.marked(EMPTY_MODEL_RUNNER_OUTPUT, why)
        for told in self.scheduler.update_from_output(step, output).values():
            for one in told.outputs:
                if one.finish_reason is not None:
                    self.ends[one.request_id] = str(one.finish_reason), one.stop_reason

    def run(self) -> list[tuple[str | None, list[str]]]:
        """Steps until all is done: the task and the requests of each."""
        found = []
        while self.scheduler.has_unfinished_requests():
            step = self.scheduler.schedule()
            if step.num_scheduled_tokens:
                found.append((step.taskstore_task, sorted(step.num_scheduled_tokens)))
            self.answer(step)
        return found


@pytest.fixture(scope="module")
def config() -> Any:
    need_vllm()
    from vllm.engine.arg_utils import EngineArgs

    options: Any = {"enforce_eager": True, "max_model_len": 128, "block_size": BLOCK}
    made = EngineArgs(str(FAMILY / "base"), dtype="float32", **options).create_engine_config()
    made.load_config.model_loader_extra_config = ServeOptions("a store", quantum=0.0).to_dict()
    return made


@pytest.fixture(params=["TaskScheduler", "AsyncTaskScheduler"])
def alone(config: Any, request: pytest.FixtureRequest) -> Alone:
    return Alone(config, request.param)


def test_steps_answer_all_and_tell_their_tasks(alone: Alone) -> None:
    for name, task in (("a", "german"), ("b", None), ("c", "german"), ("d", "roman")):
        alone.add(name, task)
    found = alone.run()
    whose = {"a": "german", "b": None, "c": "german", "d": "roman"}
    assert all(whose[name] == task for task, names in found for name in names)
    assert (found[0][1], {names[0] for _, names in found}) == (["a", "c"], {"a", "b", "d"})
    assert {why for why, _ in alone.ends.values()} == {"length"} and len(alone.ends) == 4


def test_caches_of_tasks_do_not_mix(alone: Alone) -> None:
    hits = []
    for number, task in enumerate(("german", "roman", "german", None, None)):
        alone.add(str(number), task, tokens=1)
        step = alone.scheduler.schedule()
        hits.append(step.scheduled_new_reqs[0].num_computed_tokens)
        alone.answer(step)
    assert hits == [0, 0, 2 * BLOCK, 0, 2 * BLOCK]


def test_a_failed_step_ends_its_requests_and_leaves_no_blocks(alone: Alone) -> None:
    from taskstore_serving.engine.failed_step import FAILED

    alone.add("other", "roman", tokens=9)
    first = alone.scheduler.schedule()
    alone.answer(first)
    for name in ("a", "b"):
        alone.add(name, "german")
    step = alone.scheduler.schedule()
    assert step.taskstore_task == "german"
    alone.answer(step, "the bus is gone")
    assert alone.ends == dict.fromkeys("ab", ("error", f"{FAILED}the bus is gone"))
    alone.add("again", "german")
    while not (step := alone.scheduler.schedule()).scheduled_new_reqs:
        alone.answer(step)
    assert step.num_scheduled_tokens == {"again": len(LONG)}  # none of them from the cache
    alone.answer(step)
    alone.run()
    assert alone.ends.keys() == {"a", "b", "again", "other"}
    manager = alone.scheduler.kv_cache_manager
    assert manager.block_pool.get_num_free_blocks() == 40 - 1
    alone.add("once more", "german", tokens=1)
    step = alone.scheduler.schedule()
    assert step.scheduled_new_reqs[0].num_computed_tokens == 2 * BLOCK  # of `again`
    alone.answer(step)


def test_requests_ahead_that_read_what_was_not_computed_end_too(config: Any) -> None:
    alone = Alone(config, "AsyncTaskScheduler")
    alone.add("a", "german")
    first = alone.scheduler.schedule()
    alone.add("reads", "german", [*LONG, 9])
    alone.add("own", "german", [99, *LONG])
    second = alone.scheduler.schedule()  # before the first is answered
    computed = {new.req_id: new.num_computed_tokens for new in second.scheduled_new_reqs}
    assert computed == {"reads": 2 * BLOCK, "own": 0}
    alone.answer(first, "the bus is gone")
    assert alone.ends.keys() == {"a", "reads"}
    alone.answer(second)
    alone.run()
    assert alone.ends["own"][0] == "length"


def test_a_failed_step_hides_its_requests_from_the_runner(alone: Alone) -> None:
    from taskstore_serving.engine import failed_step

    alone.add("a", "german")
    step = alone.scheduler.schedule()
    step.finished_req_ids.add("gone")
    left = failed_step.emptied(step)
    assert (left.total_num_scheduled_tokens, left.num_scheduled_tokens) == (0, {})
    assert left.scheduled_new_reqs == [] and left.finished_req_ids == {"gone"}
    assert step.num_scheduled_tokens == {"a": len(LONG)}
    step.scheduled_encoder_inputs = {"a": [0]}
    assert failed_step.emptied(step).scheduled_encoder_inputs == {}


def test_images_that_a_failed_step_did_not_encode_are_not_cached(alone: Alone) -> None:
    """Who looks at the same image ends too, and the next one that has it encodes it."""
    from vllm.v1.core.encoder_cache_manager import EncoderCacheManager

    def sees(name: str, image: str) -> Any:
        request = alone.scheduler.requests[name]
        request.mm_features = [SimpleNamespace(identifier=image)]
        request.get_num_encoder_embeds = lambda number: 4
        return request

    for name, task in (("a", "german"), ("same", "roman"), ("other", "roman")):
        alone.add(name, task)
    step = alone.scheduler.schedule()
    assert step.num_scheduled_tokens.keys() == {"a"}
    manager = alone.scheduler.encoder_cache_manager = EncoderCacheManager(cache_size=16)
    manager.allocate(sees("a", "cat"), 0)
    assert manager.check_and_update_cache(sees("same", "cat"), 0)
    manager.allocate(sees("other", "dog"), 0)
    step.scheduled_encoder_inputs = {"a": [0]}
    alone.answer(step, "the bus is gone")
    assert alone.ends.keys() == {"a", "same"}
    assert manager.cached == {"dog": {"other"}}
    assert (manager.num_free_slots, manager.num_freeable_slots) == (12, 12)


def test_requests_without_a_slot_do_not_interrupt_turns(alone: Alone) -> None:
    """Nothing of a task could have its first token while all of its slots are taken."""
    scheduler = alone.scheduler
    alone.add("waits", "german")
    running = [SimpleNamespace(num_output_tokens=1)] * scheduler.max_num_running_reqs
    assert scheduler._fresh("german", running[1:])
    assert not scheduler._fresh("german", running)
    assert scheduler._fresh("german", [SimpleNamespace(num_output_tokens=0), *running[1:]])
