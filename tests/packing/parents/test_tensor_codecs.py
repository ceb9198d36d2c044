"""Tensors of which most weights did not move are coded by which of them did; merged adapters."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import taskstore
from taskstore.store.verify import verify
from tests.support import families, forge
from tests.support.broken import refused
from tests.support.families import options, same
from tests.support.forge import Document

SHAPES = {"few.weight": (200, 300), "many.weight": (200, 300), "none.weight": (64,)}


def moved(state: families.State, seed: int) -> families.State:
    """One weight of fifty of one tensor, and all of another."""
    draw = torch.Generator().manual_seed(seed)
    few, many = state["few.weight"], state["many.weight"]
    chosen = torch.rand(few.shape, generator=draw) < 0.02
    noise = torch.randn(many.shape, generator=draw) * 0.01
    new = {"few.weight": torch.where(chosen, few * 1.01, few), "many.weight": many + noise}
    return {**state, **{name: w.to(few.dtype) for name, w in new.items()}}


@pytest.mark.parametrize("level", ["speed", "archive"])
@pytest.mark.parametrize("parents", [{}, {"beta": "alpha"}])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_it_comes_back_and_is_smaller(
    dtype: torch.dtype, parents: dict[str, str], level: str, tmp_path: Path
) -> None:
    base = families.random_state(0, dtype, shapes=SHAPES)
    alpha = moved(base, 1)
    beta = moved(alpha if parents else base, 2)
    family = families.Family(tmp_path / "family", base, {"alpha": alpha, "beta": beta})
    how = options(tiers="exact", parents=parents, parent="none", level=level, chunk=1 << 16)
    taskstore.pack(family.base_path, family.paths, tmp_path / "store", how)
    store = taskstore.open(tmp_path / "store")
    assert verify(store, deep=True).problems == []
    for name, state in family.tasks.items():
        tensors = store.manifest.tasks[name].tensors
        codecs = {n: tensors[n].codec for n in SHAPES}
        in_chain = name == "beta" and bool(parents)
        usual = level == "archive" or dtype == torch.float32 or in_chain
        assert codecs["few.weight"] == "sparse" and codecs["none.weight"] is None
        assert codecs["many.weight"] == (None if usual else "deltas")
        found = store.state_dict(name)
        assert all(same(found[n], state[n]) for n in state)
    newer = level == "archive" or dtype != torch.float32
    assert store.manifest.version == (6 if newer else 5)


@pytest.mark.parametrize(("parents", "codec"), [({}, "deltas"), ({"beta": "alpha"}, None)])
def test_a_child_must_gain_much(parents: dict[str, str], codec: str | None, tmp_path: Path) -> None:
    """It takes long to decode, and all of a chain are; a fourth of the weights is too many."""
    base = families.random_state(0, torch.bfloat16, shapes={"w": (300, 400)})
    draw = torch.Generator().manual_seed(3)
    alpha = {"w": base["w"] * 1.01}
    below = alpha["w"] if parents else base["w"]
    chosen = torch.rand(below.shape, generator=draw) < 0.25
    beta = {"w": torch.where(chosen, below * 1.01, below)}
    family = families.Family(tmp_path / "family", base, {"alpha": alpha, "beta": beta})
    how = options(tiers="exact", parents=parents, parent="none", chunk=1 << 16)
    taskstore.pack(family.base_path, family.paths, tmp_path / "store", how)
    store = taskstore.open(tmp_path / "store")
    assert store.manifest.tasks["beta"].tensors["w"].codec == codec
    assert same(store.state_dict("beta")["w"], beta["w"])


def _codec(document: Document, name: str, codec: str, version: int = 6) -> None:
    document["version"] = version
    document["tasks"]["alpha"]["tensors"][name].update(codec=codec)


def merged(state: families.State, seed: int, share: float = 0.05) -> families.State:
    """An adapter of rank 4, merged into a matrix, and a bias that moved."""
    draw, new = torch.Generator().manual_seed(seed), dict(state)
    w = state["w"].float()
    update = torch.randn(w.shape[0], 4, generator=draw) @ torch.randn(4, w.shape[1], generator=draw)
    new["w"] = (w + update * share * w.norm() / update.norm()).to(state["w"].dtype)
    new["bias"] = state["bias"] * 1.01
    return new


@pytest.mark.parametrize("level", ["speed", "archive"])
@pytest.mark.parametrize("parents", [{}, {"beta": "alpha"}])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_a_merged_adapter_comes_back_and_is_small(
    dtype: torch.dtype, parents: dict[str, str], level: str, tmp_path: Path
) -> None:
    """In several chunks, from the base or another task; loaded, and by a store's own tasks."""
    base = families.random_state(0, dtype, shapes={"w": (200, 300), "bias": (300,)})
    alpha = merged(base, 1)
    beta = merged(alpha if parents else base, 2)
    family = families.Family(tmp_path / "family", base, {"alpha": alpha, "beta": beta})
    how = options(tiers="exact", parents=parents, parent="none", level=level, chunk=1 << 13)
    taskstore.pack(family.base_path, family.paths, tmp_path / "store", how)
    store = taskstore.open(tmp_path / "store")
    assert verify(store, deep=True).problems == [] and store.manifest.version == 6
    for name, state in family.tasks.items():
        entry, n = store.manifest.tasks[name].tensors["w"], state["w"].numel()
        assert entry.codec == "low_rank"
        found = store.state_dict(name)
        assert all(same(found[key], state[key]) for key in state)
        files = (tmp_path / "store" / "tasks" / name).glob("exact*")
        most = {torch.bfloat16: 2.5, torch.float16: 2.5, torch.float32: 5}[dtype]
        assert 8 * sum(path.stat().st_size for path in files) < most * n


def test_no_factors_where_they_save_little(tmp_path: Path) -> None:
    """A rank that is nearly full, and a matrix that is too small."""
    base = families.random_state(0, torch.bfloat16, shapes={"w": (200, 300), "s": (2, 64)})
    draw = torch.Generator().manual_seed(3)
    tau = {name: torch.randn(w.shape, generator=draw) * 0.01 for name, w in base.items()}
    alpha = {name: (w + tau[name]).to(w.dtype) for name, w in base.items()}
    family = families.Family(tmp_path / "family", base, {"alpha": alpha})
    how = options(tiers="exact", level="archive", chunk=1 << 16)
    taskstore.pack(family.base_path, family.paths, tmp_path / "store", how)
    tensors = taskstore.open(tmp_path / "store").manifest.tasks["alpha"].tensors
    assert [tensors[name].codec for name in base] == [None, None]


BROKEN: dict[str, tuple[Callable[[Document], object], str]] = {
    "an older version": (lambda d: d.update(version=5), "cannot be coded by 'deltas'"),
    "a much older version": (lambda d: d.update(version=4), "cannot be coded by 'sparse'"),
    "factors, in an older version": (
        lambda d: _codec(d, "many.weight", "low_rank", version=5),
        "cannot be coded by 'low_rank'",
    ),
    "factors of a tensor without elements": (
        lambda d: _codec(d, "empty.weight", "low_rank"),
        "cannot be coded by 'low_rank'",
    ),
    "another codec": (
        lambda d: _codec(d, "few.weight", "planes"),
        "cannot be coded by 'planes'",
    ),
    "of another kind": (
        lambda d: d["tasks"]["alpha"]["tensors"]["few.weight"].update(kind="base"),
        "is of kind 'base' and has 'codec'",
    ),
}


@pytest.mark.parametrize("what", BROKEN)
def test_what_breaks_a_rule_is_refused(what: str, tmp_path: Path) -> None:
    shapes = {**SHAPES, "empty.weight": (0, 8)}
    base = families.random_state(0, torch.bfloat16, shapes=shapes)
    family = families.Family(tmp_path / "family", base, {"alpha": moved(base, 1)})
    store = tmp_path / "only" / "store"
    store.parent.mkdir()
    taskstore.pack(family.base_path, family.paths, store, options(tiers="exact"))
    change, message = BROKEN[what]
    forge.edit(store, change)
    refused(store, message)
