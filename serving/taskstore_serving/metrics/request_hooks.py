"""Where vLLM's frontend tells of its requests: as few places as see all of them, none per token.

Requests of every endpoint enter `OutputProcessor.add_request` and leave it in one of three ways:
an ending, an abort, an engine that died. `AsyncLLM.add_request` is watched for those that the
server turned away before. The two objects change their class, so that references to them that
others hold (the loop that reads the engine's outputs) are served too. An exception in that loop
would end the server: an observer that fails fails alone.

Copies made with `copy.copy` take the class along and call their own methods; only those made
before are not observed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Protocol

_log = logging.getLogger("taskstore.serving")


class Listener(Protocol):
    """What is told; `observer.Observer` is one."""

    def started(self, state: Any, arrival: float) -> None: ...
    def ended(self, sequence: str, reason: str) -> None: ...
    def refused(self, lora_request: Any) -> None: ...


def observe(engine_client: Any, observer: Listener) -> None:
    """From now on an `AsyncLLM` and its output processor tell the observer."""
    processor = engine_client.output_processor
    processor.__class__ = _telling_processor(type(processor), observer)
    engine_client.__class__ = _telling_client(type(engine_client), observer)


def _telling_processor(base: Any, observer: Listener) -> type:
    """A subclass of `vllm.v1.engine.output_processor.OutputProcessor`."""

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
    """A subclass of `vllm.v1.engine.async_llm.AsyncLLM`."""

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
