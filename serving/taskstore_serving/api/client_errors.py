"""Answers 400 where vLLM answers 500 for what a client got wrong, and only the engine found.

A grammar that does not compile ends in the engine, whose answer says why (`engine.grammars`). A
number that no message to the engine can hold fails on its way there. A request whose step failed
(`engine.failed_step`) gets 503: it may be sent again.

Why `__class__` is replaced, and what breaks it: as in `metrics.request_hooks`; the method here is
`AsyncLLM.generate`, through which every request for text goes.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

from vllm.exceptions import RetryableRequestError, VLLMValidationError
from vllm.v1.engine.exceptions import EngineGenerateError

from taskstore_serving.engine.failed_step import FAILED
from taskstore_serving.engine.grammars import UNUSABLE


def blame(engine_client: Any) -> None:
    """Make an `AsyncLLM`, and copies made of it afterwards, tell clients of their own mistakes."""
    engine_client.__class__ = _blaming(type(engine_client))


def _blaming(base: Any) -> type:
    class Client(base):
        async def generate(self, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
            try:
                async with aclosing(super().generate(*args, **kwargs)) as answers:
                    async for answer in answers:
                        for output in answer.outputs:
                            if output.finish_reason == "error":
                                _check(output.stop_reason)
                        yield answer
            except EngineGenerateError as error:
                if isinstance(error.__cause__, OverflowError):
                    raise VLLMValidationError("a number in the request is too large") from None
                raise

    return Client


def _check(reason: Any) -> None:
    if isinstance(reason, str) and reason.startswith(UNUSABLE):
        raise VLLMValidationError(reason)
    if isinstance(reason, str) and reason.startswith(FAILED):
        raise RetryableRequestError(reason)
