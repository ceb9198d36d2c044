"""Hooks that tell an observer when a request starts, ends or is refused; none runs per token.

Requests of every endpoint enter `OutputProcessor.add_request` and leave it in one of three ways:
an ending, an abort, an engine that died. `AsyncLLM.add_request` is watched for requests that the
server turned away before. An exception in vLLM's loop over the engine's outputs would end the
server, so an observer that fails fails alone.

Why `__class__` is replaced: vLLM's server builds both objects before a plugin may act, and its loop
holds the processor in a local variable, so a wrapper in its place would not be asked. Methods set
on the two objects would go along with `copy.copy`, which makes the clients of tasks' fronts, and
act on the original. Methods set on vLLM's classes would observe every engine of the process.
vLLM's stat loggers know neither the request nor its task. A new class serves references held
elsewhere, and copies made afterwards call their own methods; copies made before are not observed.

What breaks it: a vLLM that renames one of the five methods or calls them from elsewhere, or gives
the classes `__slots__`. `checks.versions` refuses versions that were not tested.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Protocol

_log = logging.getLogger("taskstore.serving")


class Listener(Protocol):
    """What the hooks tell; `observer.Observer` is one."""

    def started(self, state: Any, arrival: float) -> None: ...
    def ended(self, sequence: str, reason: str) -> None: ...
    def refused(self, lora_request: Any) -> None: ...


def observe(engine_client: Any, observer: Listener) -> None:
    """Make an `AsyncLLM` and its output processor tell the observer from now on."""
    processor = engine_client.output_processor
    processor.__class__ = _telling_processor(type(processor), observer)
    engine_client.__class__ = _telling_client(type(engine_client), observer)


def _telling_processor(base: Any, observer: Listener) -> type:
    """Make a subclass of `vllm.v1.engine.output_processor.OutputProcessor`."""

    class Processor(base):
        def add_request(self, request: Any, *args: Any, **kwargs: Any) -> None:
            known = request.request_id in self.request_states
            super().add_request(request, *args, **kwargs)
            state = self.request_states.get(request.request_id)
            if not known:
                _tell(observer.started, state, request.arrival_time)
            elif state is None:  # the end of a streamed input
                _tell(observer.ended, request.request_id, "stop")

        def _update_stats_from_finished(self, state: Any, reason: Any, stats: Any) -> None:
            super()._update_stats_from_finished(state, reason, stats)
            _tell(observer.ended, state.request_id, str(reason))

        def abort_requests(self, *args: Any, **kwargs: Any) -> list[str]:
            aborted: list[str] = super().abort_requests(*args, **kwargs)
            for sequence in aborted:
                _tell(observer.ended, sequence, "abort")
            return aborted

        def propagate_error(self, error: Exception) -> None:
            super().propagate_error(error)
            for sequence in self.request_states:
                _tell(observer.ended, sequence, "error")

    return Processor


def _telling_client(base: Any, observer: Listener) -> type:
    """Make a subclass of `vllm.v1.engine.async_llm.AsyncLLM`."""

    class Client(base):
        async def add_request(self, request_id: str, *args: Any, **kwargs: Any) -> Any:
            try:
                return await super().add_request(request_id, *args, **kwargs)
            except Exception as error:
                ours = self.errored or getattr(error, "http_status", 400) >= 500
                if ours and request_id not in self.output_processor.external_req_ids:
                    _tell(observer.refused, kwargs.get("lora_request"))
                raise

    return Client


def _tell(what: Callable[..., None], *facts: Any) -> None:
    try:
        what(*facts)
    except Exception:
        _log.exception("a request is missing in the metrics")
