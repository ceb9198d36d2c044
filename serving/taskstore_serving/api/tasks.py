"""The tasks that one server serves: their names, their fronts, and how they change."""

from __future__ import annotations

import asyncio
import logging
import shutil
import time
import weakref
from argparse import Namespace
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from vllm.lora.request import LoRARequest
from vllm.utils.counter import AtomicCounter

from taskstore.errors import InputError
from taskstore.store import Store
from taskstore_serving.api.answers import WAIT, Refusal, present, unknown_model
from taskstore_serving.api.peers import PERIOD, Peers
from taskstore_serving.api.task_fronts import Front, ServedTask, build
from taskstore_serving.assets import Assets, write_assets
from taskstore_serving.checks.configs import check_config, completed_config
from taskstore_serving.metrics.worker_answers import merged, summed
from taskstore_serving.options import ServeOptions
from taskstore_serving.weights.digests import task_digest

_TICK = 0.02  # seconds between two looks at whether a task's requests have ended
_log = logging.getLogger("taskstore.serving")


@dataclass
class Served:
    """All tasks of a server. One change at a time. `default` may be ""; `observer`: of requests."""

    app: Any
    engine: Any
    args: Namespace
    options: ServeOptions
    fronts: dict[str, Front] = field(default_factory=dict)
    tasks: dict[str, ServedTask] = field(default_factory=dict)
    verified: bool = False
    observer: Any = None

    def __post_init__(self) -> None:
        self.default = self.options.default_task
        self.names: list[str] = self.args.served_model_name or [self.args.model]
        self._folders = Path(mkdtemp(prefix="taskstore-front-"))
        weakref.finalize(self, shutil.rmtree, self._folders, ignore_errors=True)
        self._running: Counter[str] = Counter()
        self._hub: dict[str, str] = {}  # task, or the base's name -> id at the hub it came from
        self._ids = AtomicCounter(0)
        self.change = asyncio.Lock()
        self.peers = Peers(self.engine)
        self.replaced: dict[str, asyncio.Event] = {}

    async def start(self) -> None:
        """Take over what the engine loaded. Raises InputError where it cannot be served."""
        self._base = write_assets(self.store, None, self._folders)
        base = self.store.manifest.base
        self._came_from(self.names[0], base.source, base.revision)
        state = await self.state()
        _log.info("serving %s, version %s", self.options.store, self.store.version[:12])
        self.verified = bool(state["verified"])
        for task, known in state["tasks"].items():
            await self._publish(task, known, self._fitting(task))
        if self.default and self.default not in self.tasks:
            raise InputError(f"the default task {self.default!r} is not among those served")

    @property
    def store(self) -> Store:
        """The store as it is on disk now: tasks may have been added."""
        return self.options.open_store()

    def named(self, name: str) -> str:
        """The name of the only model that came from the hub under this id; else the id itself."""
        found = [own for own, of in self._hub.items() if of == name]
        return found[0] if len(found) == 1 else name

    def resolve(self, name: str) -> Front | None:
        """The front of a task; None for the base. Raises Refusal."""
        if name in self.names:
            return None
        if name not in self.tasks:
            raise unknown_model(name, [*self.names, *self.tasks])
        return self.tasks[name].front

    @contextmanager
    def running(self, task: str) -> Iterator[None]:
        """Count a request of the task, which is not removed meanwhile."""
        self._running[task] += 1
        try:
            yield
        finally:
            self._running[task] -= 1

    async def settled(self, name: str) -> None:
        """Wait, where a task is getting new weights, until it has them, or the old ones again."""
        if name not in self.tasks and name not in self.names:
            await self.peers.look(self)
        while name in self.replaced:
            await self.replaced[name].wait()

    @asynccontextmanager
    async def _changing(self, task: str) -> AsyncIterator[None]:
        """One change at a time, in all API processes; what others changed before is known."""
        async with self.peers.holding(task), self.change:
            await self.peers.catch_up(self)
            yield

    async def state(self) -> dict[str, Any]:
        """The workers' state as one; bytes are summed over them."""
        found: list[dict[str, Any]] = await self.engine.collective_rpc("taskstore_state")
        return merged(found)

    async def add(self, task: str) -> None:
        """Serve one more task of the store, or the new weights of one that is served.

        New weights are learned beside the old ones, which are served on where that fails.
        Raises Refusal: 404 for no such task, 409 where it is served as it is, or its requests do
        not end; else TaskstoreError.
        """
        async with self._changing(task):
            with present(self.options.open_store, task):
                if task not in self.tasks:
                    await self._learn(task)
                elif self.is_current(task):
                    raise Refusal(409, f"Task `{task}` is served already")
                else:
                    await self._replace(task)

    async def _learn(self, task: str) -> None:
        assets = self._fitting(task)
        try:
            await self._call("taskstore_add", task)
            await self._publish(task, (await self.state())["tasks"][task], assets)
        except BaseException:  # some workers may have it
            await self.engine.collective_rpc("taskstore_try", args=("taskstore_remove", task))
            raise

    async def _replace(self, task: str) -> None:
        """Give a task that is served its new weights; requests that come meanwhile wait for it."""
        assets, known = self._fitting(task), self.tasks[task]
        request, settled = known.front.requests[task], asyncio.Event()
        self.replaced[task] = settled
        try:
            await self._idle(task, WAIT)
            try:
                await self._call("taskstore_replace", task)
                await self._publish(task, (await self.state())["tasks"][task], assets)
            except BaseException:
                await self._settle(task, keep=False)
                self.tasks[task], known.front.requests[task] = known, request
                raise
            await self._settle(task, keep=True)
        finally:
            del self.replaced[task]
            settled.set()
        self._leave(task, known.front)

    async def publish_anew(self, task: str, known: dict[str, Any]) -> None:
        """Serve a task that the workers have already, in place of what this process had of it."""
        before = self.tasks.get(task)
        await self._publish(task, known, self._fitting(task))
        if before is not None:
            self._leave(task, before.front)

    def _leave(self, task: str, front: Front) -> None:
        if self.tasks[task].front is not front:
            del front.requests[task]
            self._drop_unused(front)

    def forget(self, task: str) -> None:
        """Serve a task no longer that the workers no longer have."""
        known = self.tasks.pop(task)
        known.front.requests.pop(task)
        self._hub.pop(task, None)
        self._drop_unused(known.front)

    async def _settle(self, task: str, keep: bool) -> None:
        await self.engine.collective_rpc("taskstore_try", args=("taskstore_settle", task, keep))

    async def remove(self, task: str, wait: float) -> None:
        """Take a task out: no new requests; those that run have `wait` seconds to end, else 409."""
        async with self._changing(task):
            if task not in self.tasks:
                raise unknown_model(task, self.tasks)
            await self._take_out(task, wait)

    async def _take_out(self, task: str, wait: float) -> None:
        known, request = self.tasks.pop(task), None
        try:
            await self._idle(task, wait)
            request = known.front.requests.pop(task)
            await self._call("taskstore_remove", task)
        except BaseException:
            self.tasks[task] = known
            if request is not None:
                known.front.requests[task] = request
            raise
        self._hub.pop(task, None)
        self._drop_unused(known.front)

    def is_current(self, task: str) -> bool:
        """Tell whether a task is served with the weights that the store holds now."""
        now = task_digest(self.store.manifest, task, self.options.residual)
        return now == self.tasks[task].digest

    async def verify(self, task: str | None) -> list[dict[str, Any]]:
        """Compare live bytes of one model, or of all (None), with what loading it gives.

        A failure makes the server not ready until all are proved again.
        """
        async with self._changing(""):
            if task is not None:
                self.resolve(task)
            model = "*" if task is None else None if task in self.names else task
            try:
                found = await self._call("taskstore_verify", model)
            except Refusal as refusal:
                self.verified = False
                raise Refusal(409, str(refusal)) from None
            self.verified = self.verified or task is None
        return summed(found)

    def _fitting(self, task: str) -> Assets:
        """A task's assets; raises TaskstoreError where it cannot be served beside the base."""
        if task in self.names:
            raise InputError(
                f"task {task!r} has the name that the base is served under; "
                "give another with --served-model-name"
            )
        own = write_assets(self.store, task, self._folders)
        config = self.engine.model_config
        if own.key != self._base.key:
            mine, base = (completed_config(one.folder, config) for one in (own, self._base))
            if mine and base:
                check_config(task, mine, base)
        return own

    async def _publish(self, task: str, known: dict[str, Any], assets: Assets) -> None:
        store = self.store.version
        if assets.key not in self.fronts:
            own = None if assets.key == self._base.key else assets.folder
            self.fronts[assets.key] = await build(self.app, self.engine, self.args, own)
        front = self.fronts[assets.key]
        path = f"taskstore://{store}/{known['digest']}"
        request = LoRARequest(task, self._ids.inc(1), path, base_model_name=self.names[0])
        front.requests[task] = request
        manifest = self.store.manifest.tasks[task]
        self._came_from(task, manifest.source, manifest.revision)
        told = {what: known[what] for what in ("tier", "fidelity", "scores")}
        self.tasks[task] = ServedTask(front, store, known["digest"], told)

    def _came_from(self, name: str, source: str | None, revision: str | None) -> None:
        if source and revision:  # without a revision it is a folder
            self._hub[name] = source

    def _drop_unused(self, front: Front) -> None:
        if not front.requests:
            self.fronts = {key: one for key, one in self.fronts.items() if one is not front}
            front.close(self.engine)

    async def _idle(self, task: str, wait: float) -> None:
        """Wait until a task's requests have ended; raises Refusal where they do not in time.

        Idle twice in a row: the engine learns of an end a moment later, and must before it is gone.
        """
        until, idle = time.monotonic() + wait, 0
        while idle < 2:
            idle = 0 if self.is_busy(task) else idle + 1
            if not idle and time.monotonic() > until:
                break
            await asyncio.sleep(_TICK)
        if idle < 2 or not await self.peers.are_idle(max(until, time.monotonic() + 3 * PERIOD)):
            raise Refusal(
                409,
                f"Task `{task}` has requests that still run after {wait:g} s; "
                "it is served on: try again later, or with a longer `wait`",
            )

    def is_busy(self, task: str) -> bool:
        """Whether requests are on their way, or outlive their connection (background responses)."""
        states = self.engine.output_processor.request_states.values()
        return self._running[task] > 0 or any(one.lora_name == task for one in states)

    async def _call(self, method: str, *args: Any) -> list[Any]:
        """Call a method in all workers; raises Refusal 400 where one of them refuses."""
        found = await self.engine.collective_rpc("taskstore_try", args=(method, *args))
        for one in found:
            if one["error"]:
                raise Refusal(400, one["error"])
        return [one["result"] for one in found]
