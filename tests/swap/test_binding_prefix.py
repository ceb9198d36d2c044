"""Modules whose names are not the store's: wrappers, larger models, more and fewer tensors."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import taskstore
from taskstore.errors import ModuleMismatch, SwapError
from tests.support import families
from tests.support.modules import Named, holds

STARTS = ["model.", "module.", "_orig_mod.encoder.", "policy.lm.", "base_model.model."]


def _under(start: str, state: families.State) -> families.State:
    return {start + name: value for name, value in state.items()}


@pytest.mark.parametrize("start", STARTS)
def test_another_start_is_found(start: str, packed: Path) -> None:
    store = taskstore.open(packed)
    module = Named(_under(start, store.state_dict("alpha")))
    module.register_parameter("head", nn.Parameter(torch.randn(4, 4)))
    with taskstore.attach(module, store) as family:
        for task in ("gamma", None, "beta"):
            family.swap(task)
            assert family.verify().tensors == 6
            assert holds(module, _under(start, store.state_dict(task)))


@pytest.mark.parametrize("kind", ["ddp", "compiled", "compiled ddp"])
def test_real_wrappers(kind: str, packed: Path, tmp_path: Path) -> None:
    """DistributedDataParallel in one process, torch.compile, and one around the other."""
    store = taskstore.open(packed)
    inner = Named(store.state_dict("alpha"))
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path / 'rendezvous'}", rank=0, world_size=1
    )
    try:
        module: Any = nn.parallel.DistributedDataParallel(inner) if "ddp" in kind else inner
        if "compiled" in kind:
            module = torch.compile(module, backend="eager")
        with taskstore.attach(module, store) as family:
            for task in ("gamma", None, "beta"):
                family.swap(task)
                assert family.verify().tensors == 6
                assert holds(inner, store.state_dict(task))
    finally:
        torch.distributed.destroy_process_group()


def test_a_wrapper_inside_and_a_part_of_the_model(packed: Path) -> None:
    store = taskstore.open(packed)
    state = store.state_dict("alpha")
    inside = Named({n.replace("layers.0.", "layers.0._orig_mod."): v for n, v in state.items()})
    with taskstore.attach(inside, store) as family:
        family.swap("beta")
        assert family.verify().tensors == 6
    part = Named({n.removeprefix("layers."): v for n, v in state.items() if "layers" in n})
    with taskstore.attach(part, store, ignore=["embed*", "norm*", "scale"]) as family:
        family.swap("beta")
        assert torch.equal(part.get_parameter("0.bias"), store.tensor("beta", "layers.0.bias"))


def test_several_places_are_named(packed: Path) -> None:
    """A policy and its reference: which of them is to be swapped?"""
    store = taskstore.open(packed)
    state = store.state_dict("alpha")
    module = Named({**_under("policy.", state), **_under("ref.", state)})
    with pytest.raises(SwapError, match="fit the module in 2 places: say prefix=") as refused:
        taskstore.attach(module, store)
    prefix = ast.literal_eval(str(refused.value).split("prefix=")[1].removesuffix(" or "))
    assert prefix == {"policy.": ""}
    with taskstore.attach(module, store, prefix=prefix) as family:
        family.swap("beta")
        assert holds(module, _under("policy.", store.state_dict("beta")))
        assert holds(module, _under("ref.", state))


def test_a_copy_of_a_tied_matrix_is_not_left_behind(packed: Path) -> None:
    store = taskstore.open(packed)
    state = store.state_dict("alpha")
    module = Named({**state, "head.weight": state["embed_tokens.weight"]})
    with pytest.raises(SwapError, match="'head.weight', .* is a copy of 'embed_tokens.weight'"):
        taskstore.attach(module, store)
    taskstore.attach(module, store, ignore=["head.weight"]).close()


def test_buffers_of_old_checkpoints(tmp_path: Path) -> None:
    """What all models have alike, the module may lack; what differs is named."""
    old = {
        "layers.0.rotary_emb.inv_freq": torch.arange(4.0),
        "layers.0.attn.bias": torch.ones(1, 1, 4, 4, dtype=torch.bool).tril(),
        "layers.0.attn.masked_bias": torch.tensor(-1e4),
        "embeddings.position_ids": torch.arange(9)[None],
    }
    weights = families.random_state(0)
    tasks = {name: {**families.tuned(weights, i), **old} for i, name in enumerate("ab")}
    for kind, change in (("same", 0), ("other", 1)):
        tasks["b"]["embeddings.position_ids"] = old["embeddings.position_ids"] + change
        family = families.Family(tmp_path / kind, {**weights, **old}, tasks)
        taskstore.pack(family.base_path, family.paths, tmp_path / kind / "s", families.options())
    store = taskstore.open(tmp_path / "same" / "s")
    new = {name: store.tensor("a", name) for name in weights}
    module = Named(new)
    with taskstore.attach(module, store) as attached:
        for task in ("b", None, "a"):
            attached.swap(task)
            attached.verify()
    with pytest.raises(ModuleMismatch, match=r"'embeddings.position_ids' has no place in the mod"):
        taskstore.attach(module, taskstore.open(tmp_path / "other" / "s"))
