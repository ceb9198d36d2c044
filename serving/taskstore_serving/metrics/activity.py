"""What a server does just now, for those who look: requests, swaps, what each task was asked.

Requests are those of this process. Swaps are asked of the workers, only while somebody looks, and
at most twice a second. Nothing of a prompt or an answer is kept.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections import Counter
from collections.abc import Iterable
from typing import Any

from taskstore_serving.metrics.recent import Recent
from taskstore_serving.metrics.requests import Finished, Flight

PERIOD = 0.5  # seconds between questions to the workers
PATIENCE = 1.0  # seconds that an answer waits for them; a long step comes before their answer
_SHOWN = 200  # running requests that are listed
_LONGEST = 100  # characters of a request's id, which a client may choose

_log = logging.getLogger("taskstore.serving")


class Activity:
    """The activity of one API process; `client` is its `AsyncLLM`."""

    def __init__(self, client: Any) -> None:
        self._client, self._recent = client, Recent()
        self._requests: Counter[str] = Counter()
        self._tokens: Counter[str] = Counter()
        self._engine: dict[str, Any] = {}
        self._answered, self._asked, self._seen = 0.0, float("-inf"), 0
        self._asking: asyncio.Task[None] | None = None

    def started(self, flight: Flight) -> None:
        self._recent.add("started", task=flight.task, request=flight.request[:_LONGEST])

    def finished(self, facts: Finished) -> None:
        self._requests[facts.task] += 1
        self._tokens[facts.task] += facts.generation_tokens
        self._recent.add(
            "finished",
            task=facts.task,
            request=facts.request[:_LONGEST],
            outcome=facts.outcome,
            prompt_tokens=facts.prompt_tokens,
            tokens=facts.generation_tokens,
            first_token_seconds=facts.first_token_seconds,
            seconds=facts.total_seconds,
        )

    async def told(self, flights: Iterable[Flight], after: int) -> dict[str, Any]:
        """What runs now, and the events after a number; `engine` may be a moment old."""
        await self._look()
        running = list(dict.fromkeys(flights))  # each of several sequences names its flight
        tokens = self._tokens.copy()
        for flight in running:
            tokens[flight.task] += flight.generated()
        return {
            "now": time.time(),
            "process": os.getpid(),
            "engine": {**self._engine, "answered": self._answered},
            "running": Counter(flight.task for flight in running),
            "requests": [_shown(flight) for flight in running[:_SHOWN]],
            "totals": {
                task: {"requests": self._requests[task], "tokens": tokens[task]}
                for task in {*self._requests, *tokens}
            },
            "last": self._recent.last,
            "events": self._recent.after(after),
        }

    async def _look(self) -> None:
        if self._asking is None and time.monotonic() - self._asked >= PERIOD:
            self._asked = time.monotonic()
            self._asking = asyncio.create_task(self._ask())
        if self._asking is not None:
            await asyncio.wait({self._asking}, timeout=PATIENCE)

    async def _ask(self) -> None:
        try:
            args = (self._seen,)
            found, *_ = await self._client.collective_rpc("taskstore_activity", args=args)
            for swap in found.pop("swaps_made"):
                self._seen = swap.pop("number")
                self._recent.add(swap.pop("kind"), swap=self._seen, **swap)
            self._engine, self._answered = found, time.time()
        except Exception as error:  # an engine that is dead says so elsewhere
            _log.debug("the workers do not tell what they do: %r", error)
        finally:
            self._asking = None


def _shown(flight: Flight) -> dict[str, Any]:
    return {
        "request": flight.request[:_LONGEST],
        "task": flight.task,
        "since": flight.arrival,
        "tokens": flight.generated(),
    }
