"""Checkpoint tensors as loaders get them."""

from __future__ import annotations

from pathlib import Path

import torch
from taskstore_serving.weights.streams import Streams, layers

import taskstore
from taskstore.executors import threads
from tests.support.families import same


def test_a_layer_is_everything_up_to_its_number() -> None:
    names = ["m.layers.0.q", "m.layers.0.mlp.experts.3.w", "m.layers.10.q", "m.layers.1.q", "head"]
    assert layers([*names, "norm"]) == [["head"], ["norm"], names[:2], [names[2]], [names[3]]]


def test_tasks_and_the_multi_task_model_give_what_differs_from_the_base(packed: Path) -> None:
    store = taskstore.open(packed)
    base, beta = store.state_dict(None), store.state_dict("beta")
    with Streams(store, ["beta"], 0, threads(2)) as streams:
        assert all(same(tensor, base[name]) for name, tensor in streams.base(streams.names))
        given = dict(streams.task("beta", streams.names))
        assert {name for name in base if not torch.equal(base[name], beta[name])} == set(given)
        assert all(same(tensor, beta[name]) for name, tensor in given.items())
        for name, merged in streams.multitask(streams.names):
            either = (beta[name] == base[name]) | (beta[name] == merged)
            assert bool(either.all())
            assert not torch.equal(merged, base[name])
