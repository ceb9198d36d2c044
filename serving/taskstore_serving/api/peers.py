"""Several API processes of one server: each keeps the list of tasks that the workers have.

A process changes a task while it holds it (`engine.holds`). The others let new requests to it wait,
say when those that run have ended, and take over what has become of the task. They look every
half a second, and where a request names a task that they do not know.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from taskstore_serving.api.answers import WAIT, Refusal

PERIOD = 0.5  # seconds between looks
_PAUSE = 0.1  # seconds between questions of a process that waits
_log = logging.getLogger("taskstore.serving")


class Peers:
    """The API processes of an engine; this one is number `index` of `count`."""

    def __init__(self, engine: Any) -> None:
        parallel = engine.vllm_config.parallel_config
        self._engine, self.count = engine, int(parallel._api_process_count)
        self.index = max(0, int(getattr(parallel, "_api_process_rank", 0)))
        self._looked, self._quiet = float("-inf"), ""
        self._turn = asyncio.Lock()

    @asynccontextmanager
    async def holding(self, task: str) -> AsyncIterator[None]:
        """Hold a task in the block; raises Refusal 409 where others change tasks all the time."""
        if self.count == 1:
            yield
            return
        async with self._turn:
            until = time.monotonic() + WAIT
            try:  # an answer that is lost may have been a yes; nobody frees what others hold
                while not all(await self._hold("take", task, self.index)):
                    if time.monotonic() > until:
                        raise Refusal(409, "Another API process changes a task; try again later")
                    await asyncio.sleep(_PAUSE)
                yield
            finally:
                await self._hold("free", self.index)

    async def are_idle(self, until: float) -> bool:
        """Wait until no process has a request of the held task; False where time is up."""
        while self.count > 1:
            held, *_ = await self._hold("state")
            if len(held["idle"]) == self.count:
                break
            if time.monotonic() > until:
                return False
            await asyncio.sleep(_PAUSE)
        return True

    async def follow(self, served: Any) -> None:
        """Look for ever; what fails is tried again."""
        while not self._engine.errored:
            try:
                await self.look(served)
            except Exception as error:
                _log.warning("the list of tasks could not be followed: %s", error)
            await asyncio.sleep(PERIOD)

    async def look(self, served: Any) -> None:
        """Take over what others changed; nothing where this process looked just now."""
        if self.count == 1 or time.monotonic() - self._looked < _PAUSE:
            return
        self._looked = time.monotonic()
        async with served.change:
            await self.catch_up(served)

    async def catch_up(self, served: Any) -> None:
        """Serve what the workers have, but for a task that another process holds."""
        if self.count == 1:
            return
        state = await served.state()
        held = state["held"]["task"] if state["held"]["owner"] not in (-1, self.index) else ""
        if held in served.tasks:
            served.replaced.setdefault(held, asyncio.Event())
            quiet = not served.is_busy(held)
            if quiet and self._quiet == held:  # twice: the engine learns of an end a moment later
                await self._hold("idle", held, self.index)
            self._quiet = held if quiet else ""
        for task in [one for one in served.tasks if one not in state["tasks"] and one != held]:
            served.forget(task)
        for task, known in state["tasks"].items():
            mine = served.tasks.get(task)
            if task != held and (mine is None or mine.digest != known["digest"]):
                await served.publish_anew(task, known)
        served.verified = bool(state["verified"])
        for task in [one for one in served.replaced if one != held]:
            served.replaced.pop(task).set()

    async def _hold(self, verb: str, *args: Any) -> list[Any]:
        found: list[Any] = await self._engine.collective_rpc("taskstore_hold", args=(verb, *args))
        return found
