"""Our arguments as vLLM itself parses them; no engine is started."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import NoReturn

import pytest
from taskstore_serving.launch import server
from taskstore_serving.launch.arguments import Launch
from taskstore_serving.options import ServeOptions

from taskstore.errors import InputError
from tests.serving.support.engines import need_vllm

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]


class Refused(Exception):
    """vLLM's word on what it cannot parse."""


def parsed(*given: str) -> Namespace:
    def refuse(message: str) -> NoReturn:
        raise Refused(message)

    need_vllm()
    options = ServeOptions("/store", ("a",), quantum=0.5)
    launch = Launch(options, ("base", "other"), "::1", 0, cpu=True, dtype="float32", given=given)
    return server._parse(launch, "/assets", {}, refuse)


def test_vllm_understands_what_we_say() -> None:
    args = parsed("--max-model-len", "1k", "--compilation-config.mode", "0")
    assert (args.model, args.host, args.port) == ("/assets", "::1", 0)
    assert args.served_model_name == ["base", "other"]
    assert (args.load_format, args.async_scheduling, args.dtype) == ("taskstore", False, "float32")
    assert ServeOptions.parse(args.model_loader_extra_config).quantum == 0.5
    assert args.max_model_len == 1000
    assert args.kv_cache_memory_bytes == 4 << 30


def test_typos_are_answered_in_vllms_words() -> None:
    with pytest.raises(Refused, match="vLLM: unrecognized arguments: --max-modle-len"):
        parsed("--max-modle-len", "5")
    with pytest.raises(Refused, match="vLLM: argument --max-model-len"):
        parsed("--max-model-len", "long")
    with pytest.raises(InputError, match="vLLM: .*--tool-call-parser"):
        parsed("--enable-auto-tool-choice")


def test_abbreviations_and_files_hide_nothing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--headless cannot be used with a store"):
        parsed("--headl")
    with pytest.raises(InputError, match="--pipeline-parallel-size cannot"):
        parsed("-pp", "2")
    config = tmp_path / "vllm.yaml"
    config.write_text("enable-lora: true\n")
    with pytest.raises(InputError, match="--enable-lora cannot"):
        parsed("--config", str(config))
    assert parsed("-pp", "1").pipeline_parallel_size == 1
