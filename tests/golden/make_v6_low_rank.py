"""What wrote the stores in `v6-low-rank/`, with taskstore 0.1.0 (format 6). Kept for the record.

    python -m tests.golden.make_v6_low_rank NEW_FOLDER

It refuses a folder that exists: golden stores are added, never regenerated.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch

import taskstore
from tests.golden.make_v1 import digests
from tests.support import families
from tests.support.families import State, options

MADE: Mapping[str, torch.dtype] = {
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "fp32": torch.float32,
}
SHAPES: Mapping[str, tuple[int, ...]] = {"proj.weight": (120, 150), "norm.weight": (200,)}


def merged(base: State, seed: int, rank: int = 4) -> State:
    """An adapter merged into the matrix: a twentieth of its norm; the vector moved by noise."""
    draw, state = torch.Generator().manual_seed(seed), {}
    for name, w in base.items():
        tau = torch.randn(w.shape, generator=draw) * 0.001
        if w.ndim == 2:
            left = torch.randn(w.shape[0], rank, generator=draw)
            tau = left @ torch.randn(rank, w.shape[1], generator=draw)
            tau = tau * 0.05 * w.float().norm() / tau.norm()
        state[name] = (w.float() + tau).to(w.dtype)
    return state


def main(target: Path) -> None:
    """Write a task over the base and one over that one, in several chunks, at both levels."""
    target.mkdir(parents=True)
    expected = {}
    for name, dtype in MADE.items():
        base = families.random_state(0, dtype, shapes=dict(SHAPES))
        first = merged(base, 1)
        tasks = {"first": first, "second": merged(first, 2)}
        with tempfile.TemporaryDirectory() as scratch:
            family = families.Family(Path(scratch) / "family", base, tasks)
            level = "archive" if name == "fp16" else "speed"
            how = options(tiers="exact", level=level, parents={"second": "first"}, chunk=1 << 12)
            taskstore.pack(family.base_path, family.paths, target / name, how)
        store = taskstore.open(target / name)
        assert store.manifest.version == 6
        for task in tasks:
            assert store.manifest.tasks[task].tensors["proj.weight"].codec == "low_rank"
        expected[name] = digests(store)
    (target / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
