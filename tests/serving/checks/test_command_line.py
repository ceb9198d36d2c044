"""vLLM options that do not go with a store."""

from __future__ import annotations

from argparse import Namespace

import pytest
from taskstore_serving.checks.command_line import check_parsed, check_words

from taskstore.errors import InputError


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model", "m"], "--model cannot be used with a store: the model is the store"),
        (["--load_format=auto"], "--load-format cannot"),
        (["--model-loader-extra-config.store", "x"], "--model-loader-extra-config cannot"),
        (["--port", "1"], "--port cannot be used with a store: give it before the --"),
        (["--enforce-eager", "--enable-lora"], "LoRA adapters"),
        (["-q", "fp8"], "--quantization cannot"),
        (["-sc", "{}"], "a draft model"),
        (["model", "--enforce-eager"], "'model' is no option"),
    ],
)
def test_they_are_refused_by_name(words: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_words(words)


def test_others_pass() -> None:
    check_words(["--max-model-len", "64", "-tp", "2", "--api-server-count", "2"])


def test_what_vllm_parsed_is_compared_with_what_we_asked_for() -> None:
    own = Namespace(
        model="assets",
        load_format="taskstore",
        quantization=None,
        api_server_count=None,
        pipeline_parallel_size=1,
        max_model_len=None,
    )
    check_parsed(Namespace(**{**vars(own), "max_model_len": 64, "api_server_count": 2}), own)
    for name, value in (
        ("model", "other"),
        ("load_format", "auto"),
        ("quantization", "fp8"),
        ("data_parallel_size", 2),
        ("pipeline_parallel_size", 2),
    ):
        with pytest.raises(InputError, match=f"--{name.replace('_', '-')} cannot"):
            check_parsed(Namespace(**{**vars(own), name: value}), own)
