"""A length that is too large for the base is refused before an engine is loaded."""

from __future__ import annotations

from typing import Any

import pytest
from taskstore_serving.checks.command_line import option_value
from taskstore_serving.checks.length import check_length

from taskstore.errors import InputError

CONFIG = {"max_position_embeddings": 4096, "hidden_size": 8}


@pytest.mark.parametrize(
    "words",
    [
        ["--max-model-len", "4097"],
        ["--max_model_len=8k"],
        ["--max-model-len", "4.5K", "--enforce-eager"],
        ["--max-model-len", "1", "--max-model-len", "5000"],
    ],
)
def test_it_is_refused_with_the_models_maximum(words: list[str]) -> None:
    with pytest.raises(InputError, match="max_position_embeddings=4096 in its config; give 4096"):
        check_length(words, CONFIG)
    with pytest.raises(InputError, match="give 2048 or less"):
        check_length(words, {"text_config": {"n_positions": 2048}, **CONFIG})


@pytest.mark.parametrize(
    ("words", "changes"),
    [
        (["--max-model-len", "4096"], {}),
        (["--max-model-len=4K"], {}),
        (["--max-model-len", "-1"], {}),
        (["--max-model-len", "auto"], {}),
        (["--max-model-len"], {}),
        (["--enforce-eager"], {}),
        (["--max-model-len", "9999", "--hf-overrides", "{}"], {}),
        (["--max-model-len", "9999", "--config", "x.yaml"], {}),
        (["--max-model-len", "9999"], {"rope_scaling": {"type": "yarn", "factor": 4.0}}),
        (["--max-model-len", "9999"], {"max_position_embeddings": None}),
    ],
)
def test_all_else_is_vllms_to_tell(words: list[str], changes: dict[str, Any]) -> None:
    check_length(words, {**CONFIG, **changes})


def test_who_allows_long_ones_is_not_held_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_ALLOW_LONG_MAX_MODEL_LEN", "1")
    check_length(["--max-model-len", "9999"], CONFIG)


def test_the_value_of_an_option() -> None:
    words = ["--a-b", "1", "--c=2", "--a_b", "3"]
    assert [option_value(words, name) for name in ("a-b", "c", "d")] == ["3", "2", None]
    assert option_value(["--a-b"], "a-b") == ""
