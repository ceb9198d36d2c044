"""The shared and the example family merged: tensors equal to whole-model computations."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from taskstore.merging import MergeOptions, merge
from tests.conftest import real_family
from tests.support import ROOT, oracle
from tests.support.families import State, same

pytestmark = pytest.mark.slow
EXAMPLE = ROOT / "examples" / "family"
ALPHA = 0.3

Whole = Callable[[State, Mapping[str, State]], State]


def total(base: State, vectors: Mapping[str, State]) -> State:
    return {name: oracle.merged_sum(vectors, name) for name in base}


METHODS: dict[str, tuple[str, dict[str, float], Whole]] = {
    "sum": ("task_arithmetic", {}, total),
    "ties": ("ties", {}, lambda _, v: oracle.merged_ties(v, mean=True)),
    "consensus": (
        "consensus",
        {"k": 2, "lam": 0.4},
        lambda b, v: oracle.consensus(b, v, total(b, v), 2, 0.4),
    ),
    "consensus over TIES": (
        "consensus+ties",
        {"k": 3, "lam": 0.5},
        lambda b, v: oracle.consensus(b, v, oracle.merged_ties(v), 3, 0.5),
    ),
}


@pytest.mark.parametrize("what", METHODS)
@pytest.mark.parametrize("family", ["lm6", "example"])
def test_every_tensor_equals_the_whole_computation(family: str, what: str, tmp_path: Path) -> None:
    root = real_family("lm6") if family == "lm6" else EXAMPLE
    folders = {p.name: p for p in root.iterdir() if (p / "config.json").exists()}
    models = {name: load_file(path / "model.safetensors") for name, path in folders.items()}
    base, path = models.pop("base"), folders.pop("base")
    method, options, whole = METHODS[what]
    merge(path, folders, tmp_path / "out", MergeOptions(method, options, alpha=ALPHA))
    found = load_file(tmp_path / "out" / "model.safetensors")
    wanted = whole(base, oracle.task_vectors(base, models))
    assert found.keys() == base.keys()
    for name, theta0 in base.items():
        expected = (theta0.float() + torch.tensor(ALPHA) * wanted[name]).to(theta0.dtype)
        assert same(found[name], expected), name
