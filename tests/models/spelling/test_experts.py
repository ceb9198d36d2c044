"""Experts that are fused in one model and single in the other are cut and joined, bit for bit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import taskstore
from taskstore.store.verify import verify
from tests.support.families import State, options, same, save, tuned

E, INNER, HIDDEN = 3, 5, 8


def single(seed: int, path: str, parts: tuple[str, str, str]) -> State:
    g = torch.Generator().manual_seed(seed)
    gate, up, down = parts
    state = {"norm.weight": torch.ones(HIDDEN), "embed.weight": torch.randn(9, HIDDEN, generator=g)}
    for e in range(E):
        for part in (gate, up):
            state[f"{path}.{e}.{part}.weight"] = torch.randn(INNER, HIDDEN, generator=g)
        state[f"{path}.{e}.{down}.weight"] = torch.randn(HIDDEN, INNER, generator=g)
    return state


def fused(state: State, path: str, parts: tuple[str, str, str], now: str) -> State:
    gate, up, down = parts
    found = {n: v for n, v in state.items() if not n.startswith(path)}
    both = [
        torch.cat([state[f"{path}.{e}.{part}.weight"] for part in (gate, up)]) for e in range(E)
    ]
    found[f"{now}.gate_up_proj"] = torch.stack(both)
    found[f"{now}.down_proj"] = torch.stack([state[f"{path}.{e}.{down}.weight"] for e in range(E)])
    return found


KINDS = {
    "qwen": ("layers.0.mlp.experts", ("gate_proj", "up_proj", "down_proj")),
    "mixtral": ("layers.0.block_sparse_moe.experts", ("w1", "w3", "w2")),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tiers", ["mask", "rest", "exact", "rest,exact"])
@pytest.mark.parametrize("fused_base", [False, True])
def test_either_way(kind: str, tiers: str, fused_base: bool, tmp_path: Path) -> None:
    path, parts = KINDS[kind]
    states = [single(0, path, parts), tuned(single(0, path, parts), 1)]
    states[not fused_base] = fused(states[not fused_base], path, parts, "layers.0.mlp.experts")
    base, own = save(tmp_path / "base", states[0]), states[1]
    task = save(tmp_path / "a", own, shards=2)
    report = taskstore.pack(base, {"a": task}, tmp_path / "store", options(tiers=tiers))
    assert any("experts" in w for w in report.warnings)
    store = taskstore.open(tmp_path / "store")
    assert not store.summary().tasks[0].private_bytes
    back = store.state_dict("a")
    assert {n: v.shape for n, v in back.items()} == {n: v.shape for n, v in own.items()}
    if "exact" in tiers:
        assert all(same(back[n], own[n]) for n in own)
        store.unpack("a", tmp_path / "back")
        for file in task.glob("model*"):
            assert (tmp_path / "back" / file.name).read_bytes() == file.read_bytes()
    assert verify(store, deep=True).ok


def test_experts_that_lie_the_other_way_are_not_matched(tmp_path: Path) -> None:
    path, parts = KINDS["qwen"]
    base = single(0, path, parts)
    own = fused(tuned(base, 1), path, parts, path)
    for name in [n for n in own if "experts" in n]:
        own[name] = own[name].transpose(1, 2).contiguous()
    save(tmp_path / "base", base), save(tmp_path / "a", own)
    with pytest.raises(taskstore.TaskstoreError, match="experts"):
        taskstore.pack(
            tmp_path / "base", {"a": tmp_path / "a"}, tmp_path / "store", options(tiers="rest")
        )
