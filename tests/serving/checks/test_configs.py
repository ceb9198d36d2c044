"""Which differences between configs change what is computed."""

from __future__ import annotations

from typing import Any

import pytest
from taskstore_serving.checks.configs import check_config

from taskstore.errors import SwapError
from taskstore.models.config import differing

BASE = {
    "hidden_size": 8,
    "rope_parameters": {"rope_theta": 1e4, "rope_type": "default"},
    "eos_token_id": 2,
    "text_config": {"layers": 3, "attention_dropout": 0.0},
}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"eos_token_id": [2, 3], "pad_token_id": 0, "transformers_version": "9"},
        {"text_config": {"layers": 3, "attention_dropout": 0.1}},
        {"id2label": {"0": "good"}, "max_position_embeddings": 9, "temperature": 0.5},
        {"mlp_bias": None},
    ],
)
def test_notes_ends_and_labels_do_not(changes: dict[str, Any]) -> None:
    assert list(differing({**BASE, **changes}, BASE)) == []
    check_config("a", {**BASE, **changes}, BASE)


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"rope_parameters": {"rope_theta": 1e6, "rope_type": "default"}}, "rope_parameters.rope"),
        ({"rope_parameters": None}, "rope_parameters"),
        ({"text_config": {"layers": 4}}, "text_config.layers"),
        ({"rms_norm_eps": 1e-5}, "rms_norm_eps"),
    ],
)
def test_all_else_is_refused_by_name(changes: dict[str, Any], name: str) -> None:
    with pytest.raises(SwapError, match=f"task 'a' cannot .* its config says {name}"):
        check_config("a", {**BASE, **changes}, BASE)
