"""What wrote the stores in `v5-adapters/`, with taskstore 0.1.0 (format 5). Kept for the record.

    python -m tests.golden.make_v5_adapters NEW_FOLDER

It refuses a folder that exists: golden stores are added, never regenerated.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch
from blake3 import blake3

import taskstore
from tests.golden.make_v1 import digests
from tests.support import adapters
from tests.support.families import options

MADE: Mapping[str, torch.dtype] = {"bf16": torch.bfloat16, "fp32": torch.float32}


def adapter_digests(store: taskstore.Store, scratch: Path) -> dict[str, str]:
    """Return the checksum of each file of each adapter as it comes out."""
    found = {}
    for task in store.tasks:
        folder = store.unpack(task, scratch / task, adapter=True)
        for path in sorted(folder.iterdir()):
            found[f"{task}/{path.name}"] = blake3(path.read_bytes()).hexdigest()
    return found


def main(target: Path) -> None:
    """Write adapters of every kind over one base, and what comes out of them."""
    target.mkdir(parents=True)
    made: dict[str, dict[str, object]] = {"expected": {}, "files": {}}
    for name, dtype in MADE.items():
        with tempfile.TemporaryDirectory() as scratch:
            root = Path(scratch)
            tasks = {kind: adapters.save(root / kind, kind) for kind in adapters.KINDS}
            taskstore.pack(adapters.base(root, dtype), tasks, target / name, options(tiers="exact"))
            opened = taskstore.open(target / name)
            made["expected"][name] = digests(opened)
            made["files"][name] = adapter_digests(opened, root / "out")
    for what, found in made.items():
        (target / f"{what}.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
