"""Makes one answer of those of all workers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any


def merged(states: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Merge `taskstore_state` of all workers: bytes are summed, seconds are the slowest's."""
    first = dict(states[0])
    first["swap_seconds"] = max(one["swap_seconds"] for one in states)
    first["verified"] = all(one["verified"] for one in states)
    memory: Counter[str] = Counter()
    for one in states:
        memory.update(one["memory"])
    first["memory"] = dict(memory)
    first["tasks"] = {
        name: {**known, "bytes": sum(one["tasks"][name]["bytes"] for one in states)}
        for name, known in first["tasks"].items()
    }
    return first


def summed(proofs: Sequence[Sequence[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Sum `taskstore_verify` of all workers: each model once, tensors and bytes of all."""
    return [
        {
            "task": ranks[0]["task"],
            "tensors": sum(one["tensors"] for one in ranks),
            "bytes": sum(one["bytes"] for one in ranks),
        }
        for ranks in zip(*proofs, strict=True)
    ]
