"""What wrote the stores in `v4/`, with taskstore 0.1.0 (format 4). Kept for the record.

    python -m tests.golden.make_v4 NEW_FOLDER

It refuses a folder that exists: golden stores are added, never regenerated.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import msgspec
import torch
from safetensors.torch import save_file

import taskstore
from taskstore.format.manifest import Score
from taskstore.packing.revise import record
from tests.golden.make_v1 import digests, variants
from tests.golden.make_v3 import file_digests
from tests.golden.make_v3_tiers import tier_digests
from tests.support import families
from tests.support.families import options

MADE: Mapping[str, dict[str, object]] = {
    "bf16-mask-rest": {"tiers": "mask,rest", "lam": 0.4},
    "bf16-rest-exact": {"tiers": "rest,exact"},
}


def said_of(store: taskstore.Store) -> dict[str, object]:
    """Return the members of format 4, as the manifest holds them."""
    manifest = msgspec.to_builtins(store.manifest)
    members = ("fidelity", "scores", "names", "beside")
    tasks = manifest["tasks"].items()
    return {
        "vectors": manifest["vectors"],
        "tasks": {name: {m: task[m] for m in members if m in task} for name, task in tasks},
    }


def main(target: Path) -> None:
    """Names of a fine-tune's own, weights beside the model, fidelity, vectors, counted scores."""
    target.mkdir(parents=True)
    made: dict[str, dict[str, object]] = {"expected": {}, "tiers": {}, "files": {}, "said": {}}
    base, tasks, _ = variants()["bf16-sum"]
    tasks["two"] = {f"model.{name}": value for name, value in tasks["two"].items()}
    for name, changes in MADE.items():
        with tempfile.TemporaryDirectory() as scratch:
            family = families.Family(Path(scratch) / "family", base, tasks)
            for path in (family.base_path, family.paths["one"]):
                (path / "head").mkdir()
                save_file({"v": torch.arange(3.0)}, path / "head" / "model.safetensors")
            store = taskstore.pack(
                family.base_path, family.paths, target / name, options(**changes)
            )
            score = Score(rebuilt=0.5, original=0.625, base=0.0, n=200)
            record(taskstore.open(store.path), "exact match", {"one": score})
            opened = taskstore.open(target / name)
            made["expected"][name] = digests(opened)
            made["tiers"][name] = tier_digests(opened)
            made["said"][name] = said_of(opened)
            made["files"][name] = file_digests(opened, Path(scratch))
    for what, found in made.items():
        (target / f"{what}.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
