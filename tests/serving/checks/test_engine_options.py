"""Options that tasks cannot be served with, each refused with its way out."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from taskstore_serving.checks.engine_options import refuse

from taskstore.errors import SwapError


def config(**changes: Any) -> SimpleNamespace:
    """What vLLM makes of no options; `parallel` changes that part."""
    parallel = {
        "pipeline_parallel_size": 1,
        "data_parallel_size": 1,
        "enable_expert_parallel": False,
        **changes.pop("parallel", {}),
    }
    return SimpleNamespace(
        **{
            "lora_config": None,
            "kv_transfer_config": None,
            "ec_transfer_config": None,
            "weight_transfer_config": None,
            "speculative_config": None,
            "model_config": SimpleNamespace(is_moe=False),
            "parallel_config": SimpleNamespace(**parallel),
            **changes,
        }
    )


def test_plain_options_pass() -> None:
    refuse(config())
    refuse(config(parallel={"data_parallel_size": 2}))
    refuse(config(model_config=SimpleNamespace(is_moe=True)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lora_config": SimpleNamespace()}, "LoRA adapters.* leave --enable-lora out"),
        (
            {"kv_transfer_config": SimpleNamespace(kv_connector="Nixl")},
            "KV connector 'Nixl'.* leave --kv-transfer-config out",
        ),
        (
            {"ec_transfer_config": SimpleNamespace(ec_connector="Shared")},
            "encoder cache connector 'Shared'.* leave --ec-transfer-config out",
        ),
        (
            {"weight_transfer_config": SimpleNamespace()},
            "weights that arrive.* leave --weight-transfer-config out",
        ),
        ({"parallel": {"pipeline_parallel_size": 2}}, "pipeline_parallel_size=2.* --tensor-par"),
        (
            {"speculative_config": SimpleNamespace(method="ngram")},
            r"speculative decoding \('ngram'\).* leave --speculative-config out",
        ),
        (
            {"parallel": {"data_parallel_size": 4, "enable_expert_parallel": True}},
            "data_parallel_size=4 and experts.* one engine a replica",
        ),
        (
            {
                "parallel": {"data_parallel_size": 2},
                "model_config": SimpleNamespace(is_moe=True),
            },
            "data_parallel_size=2 and experts.* one engine a replica",
        ),
    ],
)
def test_what_would_go_wrong_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SwapError, match=message):
        refuse(config(**changes))
