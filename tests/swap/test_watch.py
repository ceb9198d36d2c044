"""A module that is no longer what it was left as is noticed before a swap, not after."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

import taskstore
from taskstore.errors import SwapError, UnknownWeights
from tests.support import families
from tests.support.modules import ConvNet, Named, holds, state_of


@pytest.fixture
def store(packed: Path) -> taskstore.Store:
    return taskstore.open(packed)


def test_parameters_that_were_replaced(store: taskstore.Store) -> None:
    module = Named(store.state_dict("alpha"))
    with taskstore.attach(module, store) as family:
        module.get_submodule("norm").register_parameter(
            "weight", nn.Parameter(module.get_parameter("norm.weight").clone())
        )
        with pytest.raises(SwapError, match="'norm.weight' was moved or replaced"):
            family.swap("beta")
        assert family.active == "alpha"


def test_weights_that_somebody_wrote_to(store: taskstore.Store) -> None:
    module = Named(store.state_dict("alpha"))
    norm = module.get_parameter("norm.weight")
    with taskstore.attach(module, store) as family:
        family.swap("beta")
        with torch.no_grad():
            norm.add_(1)
        with pytest.raises(SwapError, match="'norm.weight' was written to since the last swap"):
            family.swap("alpha")
        with pytest.raises(UnknownWeights, match="'norm.weight' for one"):
            family.verify()
        with torch.no_grad():
            norm.copy_(store.tensor("beta", "norm.weight"))
        with pytest.raises(SwapError, match="proves it and allows swaps again"):
            family.swap("alpha")
        family.verify()
        family.swap("alpha")
        assert holds(module, store.state_dict("alpha"))


Write = Callable[[nn.Parameter], object]
SILENT: dict[str, Write] = {
    "one value through data": lambda p: p.data.view(-1)[3:4].add_(1),
    "a step through data": lambda p: p.data.mul_(1.5),
    "data.copy_": lambda p: p.data.copy_(torch.ones_like(p)),
    "numpy": lambda p: p.detach().view(torch.int16).numpy().__setitem__(..., 7),
    "dlpack": lambda p: torch.utils.dlpack.from_dlpack(p.detach()).add_(1),
}
REPLACED: dict[str, Write] = {
    "other memory": lambda p: setattr(p, "data", p.data.clone()),
    "another shape": lambda p: setattr(p, "data", p.data.view(1, -1)),
    "other strides": lambda p: setattr(p, "data", p.data.as_strided(p.shape, (0,) * p.dim())),
    "another dtype": lambda p: setattr(p, "data", p.data.view(torch.float16)),
}


@pytest.mark.parametrize("write", SILENT.values(), ids=SILENT)
@pytest.mark.parametrize("name", ["norm.weight", "layers.0.attn.weight"])
def test_writes_that_torch_does_not_count(name: str, write: Write, store: taskstore.Store) -> None:
    module = Named(store.state_dict("alpha"))
    with taskstore.attach(module, store) as family:
        family.swap("beta")
        write(module.get_parameter(name))
        if write is not SILENT["one value through data"] or name == "norm.weight":
            with pytest.raises(SwapError, match=f"'{name}' was written to since the last swap"):
                family.swap("alpha")
        with pytest.raises(UnknownWeights, match="1 of 6 tensors are not those of task 'beta'"):
            family.verify()
        module.get_parameter(name).data.copy_(store.tensor("beta", name))
        family.verify()
        family.swap("alpha")
        assert holds(module, store.state_dict("alpha"))


@pytest.mark.parametrize("write", REPLACED.values(), ids=REPLACED)
def test_memory_that_was_exchanged_through_data(write: Write, store: taskstore.Store) -> None:
    module = Named(store.state_dict("alpha"))
    with taskstore.attach(module, store) as family:
        write(module.get_parameter("norm.weight"))
        with pytest.raises(SwapError, match="'norm.weight' was moved or replaced"):
            family.swap("beta")


def test_running_statistics_in_training_mode(tmp_path: Path) -> None:
    base = state_of(ConvNet())
    family = families.Family(tmp_path, base, {"one": families.tuned(base, 1)})
    taskstore.pack(family.base_path, family.paths, tmp_path / "store", families.options())
    store = taskstore.open(tmp_path / "store")
    module = ConvNet()
    module.load_state_dict(store.state_dict("one"))
    with taskstore.attach(module, store) as attached:
        module.eval()(torch.randn(2, 3, 12, 12))
        attached.swap(None)
        module.train()(torch.randn(2, 3, 12, 12))
        with pytest.raises(SwapError, match="training mode"):
            attached.swap("one")


def test_one_family_at_a_time(store: taskstore.Store) -> None:
    module = Named(store.state_dict("alpha"))
    inner = module.get_submodule("norm")
    family = taskstore.attach(module, store)
    with pytest.raises(SwapError, match="attached to this module already"):
        taskstore.attach(module, store)
    others = [name for name in store.state_dict(None) if name != "norm.weight"]
    with pytest.raises(SwapError, match="attached to this module already"):
        taskstore.attach(inner, store, prefix="norm.", ignore=others)
    family.close()
    taskstore.attach(module, store).close()
    with pytest.raises(UnknownWeights):  # a refused attach claims nothing
        taskstore.attach(Named({n: v + 1 for n, v in store.state_dict(None).items()}), store)
    family = taskstore.attach(module, store)
    del family  # nor does one that nobody holds any more
    gc.collect()
    assert not module._forward_hooks
    taskstore.attach(module, store).close()


def test_a_backward_pass_through_a_swap_is_an_error(store: taskstore.Store) -> None:
    module = Named(store.state_dict("alpha"))
    with taskstore.attach(module, store) as family:
        loss = torch.stack([(value * value).sum() for value in module.parameters()]).sum()
        family.swap("beta")
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            torch.autograd.backward(loss)
