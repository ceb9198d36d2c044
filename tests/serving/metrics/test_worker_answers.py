"""Answers of several workers as one."""

from __future__ import annotations

from typing import Any

from taskstore_serving.metrics.worker_answers import merged, summed


def state(seconds: float, size: int, verified: bool) -> dict[str, Any]:
    return {
        "active": "a",
        "swaps": 3,
        "swap_seconds": seconds,
        "tasks": {"a": {"digest": "d", "tier": "mask", "bytes": size}},
        "memory": {"live": size, "masks": 1},
        "verified": verified,
    }


def test_bytes_are_summed_and_the_slowest_counts() -> None:
    found = merged([state(1.0, 10, True), state(2.0, 20, False)])
    assert found == {**state(2.0, 30, False), "memory": {"live": 30, "masks": 2}}
    assert merged([state(1.0, 10, True)]) == state(1.0, 10, True)


def test_proofs_are_one_a_model() -> None:
    ranks = [[{"task": task, "tensors": 2, "bytes": 5, "digest": "x"} for task in (None, "a")]] * 2
    assert summed(ranks) == [{"task": task, "tensors": 4, "bytes": 10} for task in (None, "a")]
