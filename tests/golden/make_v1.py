"""What wrote the stores in `v1/`, with taskstore 0.1.0 (format 1). Kept for the record.

    python -m tests.golden.make_v1 NEW_FOLDER

It refuses a folder that exists: golden stores are added, never regenerated.
"""

from __future__ import annotations

import json
import sys
import tempfile
from hashlib import sha256
from pathlib import Path

import torch

import taskstore
from tests.support import families
from tests.support.families import State, options, random_state, tuned

SHAPES = {"embed_tokens.weight": (24, 8), "mlp.weight": (15, 21), "norm.weight": (8,), "scale": ()}


def variants() -> dict[str, tuple[State, dict[str, State], dict[str, object]]]:
    """name -> base, tasks, options: every feature of the format at least once."""
    made: dict[str, tuple[State, dict[str, State], dict[str, object]]] = {}
    for name, dtype in (
        ("bf16", torch.bfloat16),
        ("fp16", torch.float16),
        ("fp32", torch.float32),
    ):
        base = random_state(7, dtype, SHAPES)
        tasks = {task: tuned(base, i) for i, task in enumerate(("one", "two", "three"))}
        made[f"{name}-sum"] = base, tasks, {"lambdas": {"one": 0.2}}
    base, tasks = made["bf16-sum"][0], dict(made["bf16-sum"][1])
    made["bf16-ties"] = base, tasks, {"method": "ties"}
    base = {**base, "lm_head.weight": base["embed_tokens.weight"].clone(), "ids": torch.arange(9)}
    rich = {name: {**s, "lm_head.weight": s["embed_tokens.weight"].clone(), "ids": torch.arange(9)}
            for name, s in tasks.items()}  # fmt: skip
    extra = torch.full((2, 8), 0.5, dtype=torch.bfloat16)
    for key in ("embed_tokens.weight", "lm_head.weight"):
        rich["two"][key] = torch.cat([rich["two"][key], extra])
    rich["two"]["head.weight"] = torch.linspace(-1, 1, 30).reshape(3, 10)
    rich["three"] = {k: v.float() if k == "mlp.weight" else v for k, v in rich["three"].items()}
    del rich["three"]["norm.weight"]
    made["bf16-rich"] = base, rich, {"shard_bytes": 700}
    return made


def digests(store: taskstore.Store) -> dict[str, dict[str, str]]:
    """model -> tensor -> SHA-256 of dtype, shape and bytes."""
    found = {}
    for task in (None, *store.tasks):
        found[task or "(base)"] = {
            name: sha256(
                f"{t.dtype} {list(t.shape)} ".encode() + bytes(families.bits(t).numpy())
            ).hexdigest()
            for name, t in sorted(store.state_dict(task).items())
        }
    return found


def main(target: Path) -> None:
    target.mkdir(parents=True)
    expected = {}
    for name, (base, tasks, changes) in variants().items():
        with tempfile.TemporaryDirectory() as scratch:
            family = families.Family(Path(scratch), base, tasks)
            chosen = options(**{"lam": 0.4, **changes})
            taskstore.pack(family.base_path, family.paths, target / name, chosen)
        expected[name] = digests(taskstore.open(target / name))
    (target / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
