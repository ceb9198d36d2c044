"""What wrote the stores in `v6-deltas/`, with taskstore 0.1.0 (format 6). Kept for the record.

    python -m tests.golden.make_v6_deltas NEW_FOLDER

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

SHAPES = {"wide.weight": (130, 140), "norm.weight": (140,)}
MADE: Mapping[str, tuple[torch.dtype, str, str]] = {
    "bf16": (torch.bfloat16, "exact", "speed"),
    "fp16-archive": (torch.float16, "exact", "archive"),
    "fp32-archive": (torch.float32, "exact", "archive"),
    "bf16-masks-archive": (torch.bfloat16, "mask,exact", "archive"),
}


def main(target: Path) -> None:
    """Write two tasks in two chunks, rows of which moved by different lengths."""
    target.mkdir(parents=True)
    expected = {}
    for name, (dtype, tiers, level) in MADE.items():
        draw = torch.Generator().manual_seed(7)
        base = families.random_state(0, dtype, shapes=SHAPES)
        tasks = {}
        for task in ("one", "two"):
            state = {}
            for tensor, weight in base.items():
                far = 2.0 ** torch.randint(-9, -4, weight.shape[:1], generator=draw)
                step = torch.randn(weight.shape, generator=draw)
                far = far.reshape(-1, *[1] * (weight.dim() - 1))
                state[tensor] = (weight.float() + 0.1 * far * step).to(dtype)
            tasks[task] = state
        with tempfile.TemporaryDirectory() as scratch:
            family = families.Family(Path(scratch) / "family", base, tasks)
            how = options(tiers=tiers, level=level, parent="none", chunk=1 << 14)
            taskstore.pack(family.base_path, family.paths, target / name, how)
        store = taskstore.open(target / name)
        assert store.manifest.version == 6
        expected[name] = digests(store)
    (target / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
