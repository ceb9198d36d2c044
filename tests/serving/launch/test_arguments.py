"""What is served as vLLM's arguments and environment."""

from __future__ import annotations

import json
from typing import Any

import pytest
from taskstore_serving.checks.command_line import option_names
from taskstore_serving.launch.arguments import KV_BYTES, Launch
from taskstore_serving.options import ServeOptions

OPTIONS = ServeOptions("/stores/family", ("a", "b"), quantum=0.2)


def launch(*given: str, cpu: bool = True, **more: Any) -> Launch:
    base: dict[str, Any] = {"names": ("base", "other"), "host": "::1", "port": 8080}
    return Launch(OPTIONS, cpu=cpu, given=given, **{**base, **more})


def value(words: list[str], option: str) -> str:
    """Of the last occurrence, which is the one that counts."""
    return words[len(words) - 1 - words[::-1].index(option) + 1]


def test_a_store_becomes_a_model_with_names() -> None:
    words = launch().arguments("/assets", {})
    assert value(words, "--model") == "/assets"
    at = words.index("--served-model-name")
    assert words[at + 1 : at + 3] == ["base", "other"]
    assert (value(words, "--host"), value(words, "--port")) == ("::1", "8080")
    carried = json.loads(value(words, "--model-loader-extra-config"))
    assert ServeOptions.parse(carried) == OPTIONS


@pytest.mark.parametrize(
    ("cpu", "given", "asynchronous"),
    [
        (True, (), False),
        (True, ("--async-scheduling",), False),  # vLLM turns it off there, whatever is asked
        (False, (), True),
        (False, ("--no_async_scheduling",), False),
    ],
)
def test_the_scheduler_is_of_the_kind_that_vllm_drives(
    cpu: bool, given: tuple[str, ...], asynchronous: bool
) -> None:
    words = launch(*given, cpu=cpu).arguments("/assets", {})
    name = value(words, "--scheduler-cls").rpartition(".")[2]
    assert name == ("AsyncTaskScheduler" if asynchronous else "TaskScheduler")
    assert ("--async-scheduling" if asynchronous else "--no-async-scheduling") in words


def test_on_a_cpu_memory_is_left_and_float32_stays_float32() -> None:
    words = launch(dtype="float32", room=8 << 30).arguments("/assets", {})
    assert value(words, "--dtype") == "float32"
    assert value(words, "--kv-cache-memory-bytes") == str(2 << 30)
    assert value(launch().arguments("/a", {}), "--kv-cache-memory-bytes") == str(KV_BYTES)
    assert not {"--dtype", "--kv-cache-memory-bytes"}.intersection(
        launch(cpu=False).arguments("/assets", {})
    )


@pytest.mark.parametrize("cpu", [True, False])
def test_the_head_of_a_request_is_bounded(cpu: bool) -> None:
    option = "--h11-max-incomplete-event-size"
    assert value(launch(cpu=cpu).arguments("/assets", {}), option) == str(64 << 10)
    given = launch(option, "9", cpu=cpu).arguments("/assets", {})
    assert (given.count(option), value(given, option)) == (1, "9")


def test_what_the_user_says_wins() -> None:
    words = launch("--dtype=float16", "--gpu_memory_utilization", "0.5").arguments("/assets", {})
    assert not {"--dtype", "--kv-cache-memory-bytes"}.intersection(words)
    assert words[-3:] == ["--dtype=float16", "--gpu_memory_utilization", "0.5"]
    said = launch().arguments("/assets", {"VLLM_CPU_KVCACHE_SPACE": "1"})
    assert "--kv-cache-memory-bytes" not in said


@pytest.mark.parametrize(
    ("there", "plugins"),
    [("", "taskstore"), ("mine,other", "mine,other,taskstore"), ("taskstore", "taskstore")],
)
def test_our_plugin_stands_beside_those_of_the_user(there: str, plugins: str) -> None:
    env = {"VLLM_PLUGINS": there, "VLLM_WORKER_MULTIPROC_METHOD": "fork"}
    assert launch().environment(env) == {"VLLM_PLUGINS": plugins}
    assert launch().environment({})["VLLM_WORKER_MULTIPROC_METHOD"] == "spawn"


def test_names_of_options_in_every_spelling() -> None:
    words = ["--a_b.c=d", "-tp", "2", "--no-e", "-1", "value"]
    assert option_names(words) == {"a-b", "tp", "no-e"}
