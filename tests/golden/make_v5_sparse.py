"""What wrote the stores in `v5-sparse/`, with taskstore 0.1.0 (format 5). Kept for the record.

    python -m tests.golden.make_v5_sparse NEW_FOLDER

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
from tests.support.families import options

MADE: Mapping[str, torch.dtype] = {"bf16": torch.bfloat16, "fp32": torch.float32}


def main(target: Path) -> None:
    """Write two tasks, the second coded against the first, of which few weights move."""
    target.mkdir(parents=True)
    expected = {}
    for name, dtype in MADE.items():
        draw = torch.Generator().manual_seed(7)
        base = families.random_state(0, dtype, shapes={"few.weight": (150, 200)})
        state, tasks = base, {}
        for task in ("one", "two"):
            weight = state["few.weight"]
            chosen = torch.rand(weight.shape, generator=draw) < 0.01
            state = {"few.weight": torch.where(chosen, weight * 1.01, weight).to(dtype)}
            tasks[task] = state
        with tempfile.TemporaryDirectory() as scratch:
            family = families.Family(Path(scratch) / "family", base, tasks)
            how = options(tiers="exact", parents={"two": "one"}, parent="none", chunk=1 << 14)
            taskstore.pack(family.base_path, family.paths, target / name, how)
        store = taskstore.open(target / name)
        for task in tasks:
            assert store.manifest.tasks[task].tensors["few.weight"].codec == "sparse"
        expected[name] = digests(store)
    (target / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
