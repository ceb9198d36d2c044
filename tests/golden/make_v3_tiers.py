"""What wrote the stores in `v3-tiers/`, with taskstore 0.1.0 (format 3). Kept for the record.

    python -m tests.golden.make_v3_tiers NEW_FOLDER

It refuses a folder that exists: golden stores are added, never regenerated.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

import taskstore
from tests.golden.make_v1 import digests, variants
from tests.support import families
from tests.support.families import bits, options

MADE: Mapping[str, tuple[str, dict[str, object]]] = {
    "bf16-rich-all": ("bf16-rich", {"tiers": "mask,rest,exact", "residual": 1.5}),
    "bf16-rich-archive": ("bf16-rich", {"tiers": "mask,rest,exact", "level": "archive"}),
    "bf16-rest": ("bf16-sum", {"tiers": "rest", "residual": 1.0}),
    "fp16-rest-exact": ("fp16-sum", {"tiers": "rest,exact", "residual": 3.0}),
    "fp32-mask-rest": ("fp32-sum", {"tiers": "mask,rest", "residual": 0.7}),
    "fp32-archive": ("fp32-sum", {"tiers": "mask,exact", "level": "archive"}),
}


def tier_digests(store: taskstore.Store) -> dict[str, str]:
    """Task, tier and tensor, with spaces -> SHA-256 of its rebuilt bytes."""
    return {
        f"{task} {tier} {name}": sha256(bits(value).numpy().tobytes()).hexdigest()
        for task in store.tasks
        for tier in store.tiers(task)
        for name, value in store.state_dict(task, tier=tier).items()
    }


def main(target: Path) -> None:
    target.mkdir(parents=True)
    expected, tiers = {}, {}
    for name, (variant, changes) in MADE.items():
        base, tasks, more = variants()[variant]
        with tempfile.TemporaryDirectory() as scratch:
            family = families.Family(Path(scratch), base, tasks)
            taskstore.pack(
                family.base_path, family.paths, target / name, options(**{**more, **changes})
            )
        store = taskstore.open(target / name)
        expected[name], tiers[name] = digests(store), tier_digests(store)
    (target / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")
    (target / "tiers.json").write_text(json.dumps(tiers, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
