"""The same model under two names is said by `pack` and `merge`; models that begin alike are not."""

from __future__ import annotations

from pathlib import Path

import torch

import taskstore
from taskstore.merging import MergeOptions, merge
from tests.support.families import Family, family, options, random_state, save, tuned


def test_the_same_model_twice(tmp_path: Path) -> None:
    base, own = random_state(0), tuned(random_state(0), 1)
    near = {n: v.clone() for n, v in own.items()}
    near["layers.0.attn.weight"][32, 30] += 1
    made = Family(tmp_path, base, {"a": own, "again": own, "near": near})
    again = {f"module.{name}": value for name, value in own.items()}
    paths = {**made.paths, "spelled": save(tmp_path / "spelled", again, shards=2)}
    report = taskstore.pack(made.base_path, paths, tmp_path / "s", options())
    said = [w for w in report.warnings if "the same model" in w]
    assert [w.split(":")[0] for w in said] == ["again", "spelled"]
    merged = merge(made.base_path, paths, tmp_path / "m", MergeOptions("average", jobs=1))
    assert merged.notes["again"] == "the same model as a, bit for bit; it counts twice"


def test_others_are_not(tmp_path: Path) -> None:
    made = family(tmp_path, dtype=torch.float32)
    report = taskstore.pack(made.base_path, made.paths, tmp_path / "s", options())
    assert not any("the same model" in w for w in report.warnings)
