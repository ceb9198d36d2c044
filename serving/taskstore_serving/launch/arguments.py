"""Turns what is served into vLLM's arguments and environment; starts and imports nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from taskstore_serving.checks.command_line import option_names
from taskstore_serving.options import ServeOptions

PLUGIN = "taskstore"
KV_BYTES = 4 << 30
HEAD_BYTES = 64 << 10
_HEAD_OPTION = "h11-max-incomplete-event-size"
_KV_OPTIONS = ("kv-cache-memory-bytes", "gpu-memory-utilization")


@dataclass(frozen=True)
class Launch:
    """One server to launch.

    options  what is served
    names    names of the base at /v1/models
    host     address to listen on
    port     of that address
    cpu      whether this vLLM computes on the CPU
    dtype    that of the base's weights, as vLLM calls it
    room     bytes of memory that are free on the host
    given    vLLM options of the user; they win over defaults of ours
    """

    options: ServeOptions
    names: tuple[str, ...]
    host: str
    port: int
    cpu: bool
    dtype: str = "auto"
    room: int | None = None
    given: tuple[str, ...] = ()

    @property
    def asynchronous(self) -> bool:
        """Whether vLLM schedules a step while the last one runs; it never does on the CPU."""
        return not self.cpu and "no-async-scheduling" not in option_names(self.given)

    def own_arguments(self, assets: str) -> list[str]:
        """Arguments that a user cannot change; `assets` is the folder of the base's config."""
        scheduler = "AsyncTaskScheduler" if self.asynchronous else "TaskScheduler"
        return [
            *("--model", assets),
            *("--served-model-name", *self.names),
            *("--host", self.host),
            *("--port", str(self.port)),
            *("--load-format", "taskstore"),
            *("--model-loader-extra-config", json.dumps(self.options.to_dict())),
            *("--worker-cls", "taskstore_serving.worker.TaskWorker"),
            *("--scheduler-cls", f"taskstore_serving.scheduler.{scheduler}"),
            "--async-scheduling" if self.asynchronous else "--no-async-scheduling",
        ]

    def arguments(self, assets: str, env: Mapping[str, str]) -> list[str]:
        """All of vLLM's arguments."""
        return [*self.own_arguments(assets), *self._defaults(env), *self.given]

    def _defaults(self, env: Mapping[str, str]) -> list[str]:
        """Defaults: a request's head of at most 64 KiB, where vLLM would take 4 MiB without a key.

        For the CPU, where vLLM would take nearly all memory and round float32, dtype and cache.
        """
        names, found = option_names(self.given), list[str]()
        if _HEAD_OPTION not in names:
            found += [f"--{_HEAD_OPTION}", str(HEAD_BYTES)]
        if not self.cpu:
            return found
        if "dtype" not in names:
            found += ["--dtype", self.dtype]
        if not names.intersection(_KV_OPTIONS) and not env.get("VLLM_CPU_KVCACHE_SPACE"):
            room = KV_BYTES if self.room is None else min(KV_BYTES, self.room // 4)
            found += ["--kv-cache-memory-bytes", str(room)]
        return found

    def environment(self, env: Mapping[str, str]) -> dict[str, str]:
        """Variables to set beside those of `env`."""
        plugins = [name for name in env.get("VLLM_PLUGINS", "").split(",") if name]
        changes = {"VLLM_PLUGINS": ",".join(dict.fromkeys([*plugins, PLUGIN]))}
        if "VLLM_WORKER_MULTIPROC_METHOD" not in env:
            changes["VLLM_WORKER_MULTIPROC_METHOD"] = "spawn"
        return changes
