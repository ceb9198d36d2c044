"""What wrote the stores in `v5-chains/`, with taskstore 0.1.0 (format 5). Kept for the record.

    python -m tests.golden.make_v5_chains NEW_FOLDER

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
from tests.golden.make_v3 import file_digests
from tests.golden.make_v3_tiers import tier_digests
from tests.support import families
from tests.support.families import options

MADE: Mapping[str, dict[str, object]] = {
    "chain": {"tiers": "exact"},
    "chain-rest-archive": {"tiers": "rest,exact", "level": "archive"},
}
PARENTS = {"two": "one", "three": "two", "four": "one"}
SHAPES = {"embed_tokens.weight": (20, 16), "layers.0.attn.weight": (33, 31), "norm.weight": (16,)}


def states() -> tuple[families.State, dict[str, families.State]]:
    """Return a base in bf16 and four tasks: `three` in fp16, `four` in fp32 with more rows."""
    base = families.random_state(0, shapes=SHAPES)
    one = families.tuned(base, 1)
    two = families.tuned(one, 2, 0.0005)
    three = families.tuned(two, 3, 0.0005, torch.float16)
    four = families.tuned(one, 4, 0.0005, torch.float32)
    table = four["embed_tokens.weight"]
    four["embed_tokens.weight"] = torch.cat([table, table[:3]])
    return base, {"one": one, "two": two, "three": three, "four": four}


def parents_of(store: taskstore.Store) -> dict[str, str | None]:
    return {name: task.parent for name, task in store.manifest.tasks.items()}


def main(target: Path) -> None:
    """Write tasks that are coded against each other, and what comes out of them."""
    target.mkdir(parents=True)
    made: dict[str, dict[str, object]] = {"expected": {}, "tiers": {}, "files": {}, "parents": {}}
    base, tasks = states()
    for name, changes in MADE.items():
        with tempfile.TemporaryDirectory() as scratch:
            family = families.Family(Path(scratch) / "family", base, tasks)
            how = options(parents=PARENTS, parent="none", **changes)
            taskstore.pack(family.base_path, family.paths, target / name, how)
            opened = taskstore.open(target / name)
            made["expected"][name] = digests(opened)
            made["tiers"][name] = tier_digests(opened)
            made["parents"][name] = parents_of(opened)
            made["files"][name] = file_digests(opened, Path(scratch))
    for what, found in made.items():
        (target / f"{what}.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
