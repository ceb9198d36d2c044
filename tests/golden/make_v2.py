"""What wrote the stores in `v2/`, with taskstore 0.1.0 (format 2). Kept for the record.

    python -m tests.golden.make_v2 NEW_FOLDER

It refuses a folder that exists: golden stores are added, never regenerated.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import taskstore
from tests.golden.make_v1 import digests, variants
from tests.support import families
from tests.support.families import options


def main(target: Path) -> None:
    target.mkdir(parents=True)
    expected = {}
    for name in ("bf16-sum", "fp16-sum", "fp32-sum", "bf16-rich"):
        base, tasks, changes = variants()[name]
        name = name.replace("-sum", "") + "-exact"
        with tempfile.TemporaryDirectory() as scratch:
            family = families.Family(Path(scratch), base, tasks)
            chosen = options(**{**changes, "tiers": "exact"})
            taskstore.pack(family.base_path, family.paths, target / name, chosen)
        expected[name] = digests(taskstore.open(target / name))
    (target / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
