"""What wrote the stores in `v5-changes/`, with taskstore 0.1.0 (format 5). Kept for the record.

    python -m tests.golden.make_v5_changes NEW_FOLDER

It refuses a folder that exists: golden stores are added, never regenerated.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import taskstore
from tests.golden.make_v1 import digests
from tests.golden.make_v3 import file_digests
from tests.golden.make_v3_tiers import tier_digests
from tests.support import families
from tests.support.families import options

MADE: Mapping[str, dict[str, object]] = {
    "changes-mask": {"tiers": "mask"},
    "changes-rest-exact": {"tiers": "rest,exact"},
}
SHAPES = {"embed_tokens.weight": (20, 16), "layers.0.attn.weight": (33, 31), "norm.weight": (16,)}


def states() -> tuple[families.State, dict[str, families.State]]:
    base = families.random_state(0, shapes=SHAPES)
    return base, {name: families.tuned(base, n) for n, name in enumerate("abcd", 1)}


def said_of(store: taskstore.Store) -> dict[str, object]:
    """Return where tasks lie, and what was done, without the times."""
    return {
        "folders": {name: store.manifest.folder(name) for name in store.tasks},
        "history": [[one.what, one.tasks, one.before] for one in store.manifest.history or ()],
    }


def main(target: Path) -> None:
    """Write stores that were changed in every way, and what comes out of them."""
    target.mkdir(parents=True)
    made: dict[str, dict[str, object]] = {"expected": {}, "tiers": {}, "files": {}, "said": {}}
    base, tasks = states()
    for name, changes in MADE.items():
        with tempfile.TemporaryDirectory() as scratch:
            paths = families.Family(Path(scratch) / "family", base, tasks).paths
            path, kept = target / name, taskstore.AddOptions(max_error=None)
            two = {task: paths[task] for task in "ab"}
            taskstore.pack(Path(scratch) / "family" / "base", two, path, options(**changes))
            taskstore.add(path, {task: paths[task] for task in "cd"}, kept)
            taskstore.replace(path, {"a": paths["d"]}, kept)
            taskstore.rename(path, "b", "renamed")
            taskstore.remove(path, ["d"])
            opened = taskstore.open(path)
            made["expected"][name] = digests(opened)
            made["tiers"][name] = tier_digests(opened)
            made["said"][name] = said_of(opened)
            made["files"][name] = file_digests(opened, Path(scratch))
    for what, found in made.items():
        (target / f"{what}.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
