"""Tensor parallel: each rank swaps its shards, and holds what a rank of a folder's engine holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.serving.support.engines import engine
from tests.serving.test_engine import UNPACKED, answers, folders, serving

__all__ = ["folders"]
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]
TWO: dict[str, Any] = {
    "tensor_parallel_size": 2,
    "distributed_executor_backend": "mp",
    "dtype": "float32",
}


def test_ranks_hold_what_the_ranks_of_an_engine_on_the_folder_hold(
    folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.serving.support.unpacked import digests

    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    with engine(folders / "assets", **serving(folders, **TWO)) as llm:
        states = llm.collective_rpc("taskstore_state")
        assert [state["verified"] for state in states] == [True, True]
        found = {}
        for task in ("roman", "german", None, "german", "roman"):
            llm.collective_rpc("taskstore_swap", args=(task,))
            found[task] = llm.collective_rpc(digests)
        said = answers(llm)
        llm.collective_rpc("taskstore_remove", args=("german",))
        llm.collective_rpc("taskstore_add", args=("german",))
        llm.collective_rpc("taskstore_swap", args=("german",))
        assert llm.collective_rpc(digests) == found["german"]
    with engine(folders / "roman", worker_cls=UNPACKED, **TWO) as llm:
        assert llm.collective_rpc(digests) == found["roman"]
        assert answers(llm) == said
    one, two = found["roman"]
    assert one.keys() == two.keys() and one != two
    assert found["roman"] != found["german"] != found[None]
