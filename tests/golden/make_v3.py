"""What wrote `v3/bf16-shards`, with taskstore 0.1.0 (format 3). Kept for the record.

    python -m tests.golden.make_v3 NEW_FOLDER

It refuses a folder that exists: golden stores are added, never regenerated.
"""

from __future__ import annotations

import json
import sys
import tempfile
from hashlib import sha256
from pathlib import Path

import taskstore
from tests.golden.make_v1 import digests, variants
from tests.support import families, oddly


def file_digests(store: taskstore.Store, scratch: Path) -> dict[str, dict[str, str]]:
    """model -> unpacked file -> SHA-256."""
    return {
        model or "(base)": {
            name: sha256(raw).hexdigest()
            for name, raw in families.contents(
                store.unpack(model, scratch / (model or "base"))
            ).items()
        }
        for model in (None, *store.tasks)
    }


def main(target: Path) -> None:
    target.mkdir(parents=True)
    base, tasks, _ = variants()["bf16-rich"]
    with tempfile.TemporaryDirectory() as scratch:
        family = families.Family(Path(scratch) / "family", base, tasks, oddly.odd)
        store = oddly.packed(family, target / "bf16-shards", tiers="exact")
        files = file_digests(store, Path(scratch))
    (target / "expected.json").write_text(
        json.dumps({"bf16-shards": digests(store)}, indent=1) + "\n"
    )
    (target / "files.json").write_text(json.dumps({"bf16-shards": files}, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
