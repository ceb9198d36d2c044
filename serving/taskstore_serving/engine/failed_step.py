"""A step whose swap failed: it computes nothing, and its requests end, the engine goes on.

The worker gives vLLM's runner the step without its requests, so that it still learns what ended,
and answers with the reason. The scheduler then ends the step's requests. What the step should have
computed is in the prefix cache already, since vLLM names blocks before they are filled: so the
cache is emptied, and requests of steps made ahead that read such a block end as well. So it is with
images and sound that the step should have encoded.
"""

from __future__ import annotations

from copy import copy
from typing import Any

from vllm.v1.core.sched.output import CachedRequestData
from vllm.v1.engine import EngineCoreOutput, EngineCoreOutputs
from vllm.v1.request import RequestStatus

FAILED = "the weights could not be swapped, send the request again: "
_NAME = "taskstore_failed"
_LONGEST = 300  # characters of a reason


def emptied(step: Any) -> Any:
    """A `SchedulerOutput` without its requests."""
    left = copy(step)
    left.scheduled_encoder_inputs = {}
    left.scheduled_new_reqs, left.num_scheduled_tokens = [], {}
    left.scheduled_cached_reqs = CachedRequestData.make_empty()
    left.total_num_scheduled_tokens, left.scheduled_spec_decode_tokens = 0, {}
    left.has_structured_output_requests = left.pending_structured_output_tokens = False
    return left


def marked(output: Any, why: str) -> Any:
    """A step's output that says why it failed."""
    carrying = copy(output)  # vLLM shares its empty one
    setattr(carrying, _NAME, FAILED + why[:_LONGEST])
    return carrying


def reason(output: Any) -> str | None:
    """Why a step failed; None for one that did not."""
    found: str | None = getattr(output, _NAME, None)
    return found


def end_requests(scheduler: Any, step: Any) -> list[Any]:
    """End the requests of a step that failed, and empty the prefix cache; vLLM's requests."""
    manager = scheduler.kv_cache_manager
    lost = _blocks(manager, step, scheduler.requests)
    reading = {
        name
        for name in scheduler.requests
        if any(lost.intersection(ids) for ids in manager.get_block_ids(name))
    }
    manager.evict_blocks(set(range(len(manager.block_pool.blocks))))
    encoded, lost_media = scheduler.encoder_cache_manager, _media(step, scheduler.requests)
    looking = {name for one in lost_media for name in encoded.cached.get(one, ())}
    broken = {*step.num_scheduled_tokens, *reading, *looking}
    found: list[Any] = scheduler.finish_requests(broken, RequestStatus.FINISHED_ERROR)
    _forget(encoded, lost_media)
    return found


def _media(step: Any, requests: Any) -> set[str]:
    """Hashes of images and sound that a step should have encoded, and did not."""
    return {
        requests[name].mm_features[number].identifier
        for name, numbers in step.scheduled_encoder_inputs.items()
        if name in requests
        for number in numbers
    }


def _forget(manager: Any, media: set[str]) -> None:
    """Take them out of vLLM's `EncoderCacheManager`, which counts them as encoded."""
    for one in media & manager.freeable.keys():
        manager.num_free_slots += manager.freeable.pop(one)
        del manager.cached[one], manager.num_embeds_by_hash[one]


def tell(outputs: dict[int, Any], ended: list[Any], why: str) -> None:
    """Add the ends of requests to what a step tells the API processes, by their numbers."""
    for request in ended:
        told = outputs.setdefault(request.client_index, EngineCoreOutputs())
        told.outputs.append(
            EngineCoreOutput(
                request.request_id,
                [],
                finish_reason=request.get_finished_reason(),
                stop_reason=why,
                events=request.take_events(),
                trace_headers=request.trace_headers,
            )
        )


def _blocks(manager: Any, step: Any, requests: Any) -> set[int]:
    """Blocks that a step should have filled, and did not."""
    old = step.scheduled_cached_reqs
    computed = {new.req_id: new.num_computed_tokens for new in step.scheduled_new_reqs}
    computed |= dict(zip(old.req_ids, old.num_computed_tokens, strict=True))
    theirs = {new.req_id: new.block_ids for new in step.scheduled_new_reqs}
    theirs |= {name: manager.get_block_ids(name) for name in computed if name in requests}
    groups, found = manager.kv_cache_config.kv_cache_groups, set[int]()
    for name, by_group in theirs.items():
        for group, ids in zip(groups, by_group, strict=True):
            found.update(ids[computed[name] // group.kv_cache_spec.block_size :])
    return found - {manager.block_pool.null_block.block_id}
