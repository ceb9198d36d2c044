"""Real vLLM engines inside the test's own process, one at a time."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from taskstore_serving.checks import versions

from tests.support import ROOT

FAMILY = ROOT / "examples" / "family"
SMALL = {
    "enforce_eager": True,
    "max_model_len": 128,
    "max_num_seqs": 8,
    "kv_cache_memory_bytes": 64 << 20,
    "disable_log_stats": True,
}


def need_vllm() -> None:
    """Skip, and say why, where vLLM is not installed."""
    if versions.installed() is None:
        pytest.skip("vLLM is not installed: pip install '.[serve-cpu]'")
    os.environ |= {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_CPU_CI_ENV": "1",
        "HF_HUB_OFFLINE": "1",
    }


@contextmanager
def engine(model: Path, **changes: Any) -> Iterator[Any]:
    """A vLLM engine of a folder; it is gone when the block ends."""
    from taskstore_serving.plugin import register

    register()
    from vllm import LLM
    from vllm.distributed import cleanup_dist_env_and_memory

    llm = LLM(model=str(model), **{**SMALL, **changes})
    try:
        yield llm
    finally:
        llm.llm_engine.engine_core.shutdown()
        del llm
        gc.collect()
        cleanup_dist_env_and_memory()
