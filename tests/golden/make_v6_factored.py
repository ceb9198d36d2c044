"""What wrote the stores in `v6-factored/`, with taskstore 0.1.0 (format 6). Kept for the record.

    python -m tests.golden.make_v6_factored NEW_FOLDER

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

MADE: Mapping[str, torch.dtype] = {"bf16": torch.bfloat16, "fp32": torch.float32}
SHAPES: Mapping[str, tuple[int, ...]] = {"low.weight": (150, 200), "norm.weight": (200,)}


def of_low_rank(base: State, seed: int, rank: int = 3) -> State:
    """A fine-tune whose matrices moved by a part of low rank, and by noise; one row did not."""
    draw, state = torch.Generator().manual_seed(seed), {}
    for name, w in base.items():
        tau = torch.randn(w.shape, generator=draw) * 0.001
        if w.ndim == 2:
            left = torch.randn(w.shape[0], rank, generator=draw)
            right = torch.randn(rank, w.shape[1], generator=draw)
            tau = (tau + left @ right * 0.004) * (torch.arange(w.shape[0]) != 5)[:, None]
        state[name] = (w.float() + tau).to(w.dtype)
    return state


def main(target: Path) -> None:
    """Write two tasks at rates below two bits, in several chunks, one with an exact tier above."""
    target.mkdir(parents=True)
    expected = {}
    for name, dtype in MADE.items():
        base = families.random_state(0, dtype, shapes=dict(SHAPES))
        tasks = {"coarse": of_low_rank(base, 1), "fine": of_low_rank(base, 2)}
        with tempfile.TemporaryDirectory() as scratch:
            family = families.Family(Path(scratch) / "family", base, tasks)
            bits = {"coarse": 0.3, "fine": 1.2}
            how = options(tiers="rest,exact", residuals=bits, chunk=1 << 13)
            taskstore.pack(family.base_path, family.paths, target / name, how)
        store = taskstore.open(target / name)
        assert store.manifest.version == 6
        for task in tasks:
            assert store.manifest.tasks[task].tensors["low.weight"].codec == "factored"
        expected[name] = digests(store)
    (target / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
