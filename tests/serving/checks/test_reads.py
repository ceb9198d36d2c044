"""Settings that trainers and old versions write, and those that vLLM's model reads."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from taskstore_serving.checks import reads
from taskstore_serving.checks.choice import choose
from taskstore_serving.checks.configs import check_config

import taskstore
from taskstore.errors import SwapError
from tests.serving.support.engines import FAMILY, need_vllm
from tests.support import families

LLAMA: dict[str, Any] = json.loads((FAMILY / "base" / "config.json").read_text())
OLD = {"torchscript": False, "pruned_heads": {}, "is_decoder": False, "add_cross_attention": False,
       "tie_encoder_decoder": False, "bad_words_ids": None, "rope_scaling": None}  # fmt: skip
NOTES = {"unsloth_version": "2025.1.5", "unsloth_fixed": True, "trainer_notes": {"by": [1]}}
QUANTISED = {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}


def whole(**changes: Any) -> dict[str, Any]:
    found = reads.completed({**LLAMA, **changes})
    assert found is not None
    return found


@pytest.mark.parametrize("notes", [OLD, NOTES, QUANTISED, {"head_dim": 32}, {"rope_theta": 1e4}])
def test_notes_are_no_reason(notes: dict[str, Any]) -> None:
    need_vllm()
    check_config("a", whole(**notes), whole())
    check_config("a", whole(), whole(**notes))


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"rms_norm_eps": 1e-3}, "rms_norm_eps"),
        ({"bias": True}, "bias"),  # not of transformers' class, and vLLM's Llama reads it
        ({"sliding_window": 64}, "sliding_window"),
        ({"num_attention_heads": 8, "num_key_value_heads": 8}, "num_attention_heads"),
        ({"hidden_act": "gelu"}, "hidden_act"),
    ],
)
def test_what_vllm_reads_is(changes: dict[str, Any], name: str) -> None:
    need_vllm()
    with pytest.raises(SwapError, match=f"its config says {name}="):
        check_config("a", whole(**changes), whole())


def test_what_cannot_be_told_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    assert reads.counts("anything", {"model_type": "nobody's"})
    assert reads.completed({"model_type": "nobody's"}) is None
    assert reads.completed({**LLAMA, "hidden_size": "large"}) is None
    monkeypatch.setattr(reads, "_source", lambda _: "")
    assert reads.counts("unsloth_version", LLAMA)


def test_a_store_is_sorted_before_an_engine_starts(tmp_path: Path) -> None:
    need_vllm()
    changes: dict[str, dict[str, Any]] = {
        "plain": {},
        "noted": NOTES,
        "old": OLD,
        "bent": {"rms_norm_eps": 1e-3},
        "biased": {"bias": True},
    }
    for task, more in changes.items():
        shutil.copytree(FAMILY / "german", tmp_path / task)
        (tmp_path / task / "config.json").write_text(json.dumps({**LLAMA, **more}))
    paths = {task: tmp_path / task for task in changes}
    taskstore.pack(FAMILY / "base", paths, tmp_path / "store", families.options(tiers="mask"))
    store = taskstore.open(tmp_path / "store")
    found = choose(store, [], residual=0, default="", skip=True)
    assert set(found.tiers) == {"plain", "noted", "old"}
    assert "rms_norm_eps=0.001" in found.left_out["bent"]
    assert "bias=True, the base's None" in found.left_out["biased"]
