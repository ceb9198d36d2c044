"""Asks for the API key on every route that makes the engine work.

vLLM asks for it below /v1, /v2, /inference and /cohere alone: /invocations, /tokenize, /pooling
and others would answer without it.
"""

from __future__ import annotations

from typing import Any

from starlette.datastructures import Headers
from vllm import envs
from vllm.entrypoints.serve.middleware.authenticate import AuthenticationMiddleware

from taskstore_serving.api.answers import Refusal
from taskstore_serving.api.body import answer

_OPEN = ("GET", "HEAD", "OPTIONS")  # probes, metrics, documentation


def keys(args: Any) -> list[str]:
    """The API keys that vLLM takes."""
    return [key for key in args.api_key or [envs.VLLM_API_KEY] if key]


class KeyEverywhere(AuthenticationMiddleware):
    """Refuses requests without a key that vLLM's own middleware, before it, let pass."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if (
            scope["type"] == "http"
            and scope["method"] not in _OPEN
            and scope["path"] != "/ping"
            and not self.verify_token(Headers(scope=scope))
        ):
            await answer(send, Refusal(401, "Unauthorized"))
            return
        await self.app(scope, receive, send)
