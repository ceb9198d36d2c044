"""Which modules can be attached, what is refused, and in what words."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

import taskstore
from taskstore import devices
from taskstore.errors import (
    DeviceError,
    InputError,
    ModuleMismatch,
    NotEnoughMemory,
    SwapError,
    UnknownTask,
    UnknownWeights,
)
from tests.support import families
from tests.support.families import State
from tests.support.modules import Named, holds


@pytest.fixture
def store(packed: Path) -> taskstore.Store:
    return taskstore.open(packed)


def _pack(
    root: Path, base: State, tasks: dict[str, State], saver: Callable[..., Path] = families.save
) -> taskstore.Store:
    family = families.Family(root, base, tasks, saver)
    taskstore.pack(family.base_path, family.paths, root / "store", families.options())
    return taskstore.open(root / "store")


# What can be attached


def test_a_prefix_before_every_name(store: taskstore.Store) -> None:
    inner = store.state_dict("alpha", names=["layers.0.bias", "layers.0.attn.weight"])
    module = Named({name.removeprefix("layers."): value for name, value in inner.items()})
    others = ("embed*", "layers.1.*", "norm.*", "scale")
    with taskstore.attach(module, store, prefix="layers.", ignore=others) as family:
        family.swap("gamma")
    expected = store.state_dict("gamma", names=list(inner))
    assert holds(module, {name.removeprefix("layers."): v for name, v in expected.items()})


def test_a_map_of_prefixes_longest_first(store: taskstore.Store) -> None:
    state = store.state_dict("alpha")
    own = {f"module.{name.replace('layers.0.', 'first.')}": value for name, value in state.items()}
    module = Named(own)
    prefix = {"module.": "", "module.first.": "layers.0."}
    with taskstore.attach(module, store, prefix=prefix) as family:
        family.swap("beta")
        assert family.verify().tensors == len(state)


def test_tied_weights_are_swapped_once(tmp_path: Path) -> None:
    """One memory under two names, whether the checkpoint holds one copy or both."""
    base = families.random_state(0)
    base["head.weight"] = base["embed_tokens.weight"].clone()
    tasks = {}
    for i, name in enumerate(("a", "b")):
        tasks[name] = families.tuned(base, i)
        tasks[name]["head.weight"] = tasks[name]["embed_tokens.weight"].clone()
    store = _pack(tmp_path, base, tasks)
    module = Named(store.state_dict("a"))
    module.get_submodule("head").register_parameter(
        "weight", module.get_parameter("embed_tokens.weight")
    )
    size = sum(v.numel() * 2 for name, v in base.items() if name != "head.weight")
    with taskstore.attach(module, store) as family:
        assert family.memory().live == size
        family.swap("b")
        assert holds(module, store.state_dict("b"))
    apart = Named(store.state_dict("a"))
    with taskstore.attach(apart, store) as family:
        assert family.memory().live == size + base["head.weight"].numel() * 2
        family.swap("b")
        assert holds(apart, store.state_dict("b"))


def test_a_module_that_ties_what_a_task_has_apart(tmp_path: Path) -> None:
    base = families.random_state(0)
    base["head.weight"] = base["embed_tokens.weight"].clone()
    store = _pack(tmp_path, base, {"a": families.tuned(base, 1)})
    module = Named(store.state_dict(None))
    module.get_submodule("head").register_parameter(
        "weight", module.get_parameter("embed_tokens.weight")
    )
    with pytest.raises(
        ModuleMismatch, match="ties 'embed_tokens.weight' and 'head.weight', which differ"
    ):
        taskstore.attach(module, store)


def _heads() -> tuple[State, dict[str, State]]:
    """Two tasks with heads of one shape, one with a larger head, a base without."""
    base = families.random_state(0)
    tasks = {name: families.tuned(base, i) for i, name in enumerate(("a", "b", "wide"))}
    for i, (name, state) in enumerate(tasks.items()):
        shape = (9, 16) if name == "wide" else (4, 16)
        state["head.weight"] = families.random_state(50 + i, shapes={"h": shape})["h"]
    return base, tasks


def test_heads_are_copied(tmp_path: Path) -> None:
    base, tasks = _heads()
    store = _pack(tmp_path, base, tasks)
    module = Named(store.state_dict("a"))
    with taskstore.attach(module, store, ["a", "b"]) as family:
        assert family.memory().values == 2 * 4 * 16 * 2
        for task in ("b", "a", "b"):
            family.swap(task)
            assert holds(module, store.state_dict(task))
        with pytest.raises(SwapError, match="cannot hold the base: it has no tensor 'head.weight'"):
            family.swap(None)
    with pytest.raises(
        ModuleMismatch,
        match=r"cannot hold task 'wide': its tensor 'head.weight' is BF16 \[9, 16\], the module's "
        r"BF16 \[4, 16\]; name those that fit: a, b",
    ):
        taskstore.attach(module, store)
    backbone = Named({n: v for n, v in store.state_dict("wide").items() if n in base})
    with taskstore.attach(backbone, store, ignore=["head.*"]) as family:
        family.swap(None)
        assert holds(backbone, base)


def test_rows_of_a_grown_vocabulary(tmp_path: Path) -> None:
    base = families.random_state(0)
    tasks = {}
    for i, name in enumerate(("a", "b")):
        tasks[name] = families.tuned(base, i)
        rows = families.random_state(70 + i, shapes={"r": (3, 16)})["r"]
        tasks[name]["embed_tokens.weight"] = torch.cat([tasks[name]["embed_tokens.weight"], rows])
    store = _pack(tmp_path, base, tasks)
    assert store.manifest.tasks["a"].tensors["embed_tokens.weight"].kind == "mask"
    module = Named(store.state_dict("b"))
    with taskstore.attach(module, store) as family:
        assert family.memory().values == 2 * 3 * 16 * 2
        for task in ("a", "b", "a"):
            family.swap(task)
            assert holds(module, store.state_dict(task))
        with pytest.raises(SwapError, match=r"cannot hold the base: its tensor 'embed_tokens.we"):
            family.swap(None)


def test_a_tensor_of_which_only_one_task_has_its_own(tmp_path: Path) -> None:
    """Private in one task, the base's in the other and in the base: every state is one content."""
    base = {**families.random_state(0), "steps": torch.arange(5)}
    a = {**families.tuned(base, 1), "steps": torch.arange(5) + 7}
    b = {**families.tuned(base, 2), "steps": torch.arange(5)}
    store = _pack(tmp_path, base, {"a": a, "b": b})
    module = Named(base)
    with taskstore.attach(module, store) as family:
        assert family.memory().values == 2 * 5 * 8
        for task in ("a", "b", None, "a", None):
            family.swap(task)
            assert holds(module, store.state_dict(task))


def test_a_task_in_another_dtype_is_refused_by_name(tmp_path: Path) -> None:
    base = families.random_state(0)
    tasks = {"a": families.tuned(base, 1), "half": families.tuned(base, 2, dtype=torch.float16)}
    store = _pack(tmp_path, base, tasks)
    with pytest.raises(ModuleMismatch, match=r"task 'half': its tensor .* is F16 .* BF16"):
        taskstore.attach(Named(base), store)
    with taskstore.attach(Named(base), store, ["a"]) as family:
        family.swap("a")


def test_a_base_that_is_only_referenced(small: families.Family, tmp_path: Path) -> None:
    options = families.options(base="reference")
    taskstore.pack(small.base_path, small.paths, tmp_path / "store", options)
    store = taskstore.open(tmp_path / "store")
    module = Named(small.base)
    with taskstore.attach(module, store) as family:
        for task in ("alpha", None, "gamma"):
            family.swap(task)
            assert holds(module, store.state_dict(task))


# What is refused


def test_unknown_tasks_and_options(store: taskstore.Store) -> None:
    module = Named(store.state_dict(None))
    with pytest.raises(UnknownTask, match="did you mean 'alpha'"):
        taskstore.attach(module, store, ["alpa"])
    with pytest.raises(InputError, match="list of strings"):
        taskstore.attach(module, store, "alpha")
    with pytest.raises(InputError, match="not 'host' or 'device'"):
        taskstore.attach(module, store, masks="disk")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="not 'wait' or"):
        taskstore.attach(module, store, busy="no")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="list of strings"):
        taskstore.attach(module, store, ignore="x")


def test_other_names_shapes_and_dtypes_name_three_differences(store: taskstore.Store) -> None:
    state = store.state_dict("alpha")
    state["embed_tokens.weight"] = state["embed_tokens.weight"][:-1].clone()
    state["layers.0.bias"] = state["layers.0.bias"].int()
    state["norm.scale"] = state.pop("norm.weight")
    state["scale2"] = state.pop("scale")
    with pytest.raises(ModuleMismatch) as caught:
        taskstore.attach(Named(state), store)
    message = str(caught.value)
    assert "'embed_tokens.weight' is BF16 [40, 16], the module's BF16 [39, 16]" in message
    assert "'layers.0.bias' is BF16 [7], the module's I32 [7]" in message
    assert "it has no tensor 'norm.scale'" in message
    assert "and 3 more" in message


def test_weights_of_no_task(store: taskstore.Store) -> None:
    state = store.state_dict("alpha")
    changed = Named(state)
    with torch.no_grad():
        changed.get_parameter("norm.weight").add_(1)
    with pytest.raises(
        UnknownWeights,
        match="1 of 6 tensors are not those of task 'alpha', the nearest, 'norm.weight' for one",
    ):
        taskstore.attach(changed, store)
    strange = Named({name: value + 1 for name, value in state.items()})
    with pytest.raises(UnknownWeights, match="live weights are none of this store's: no tensor"):
        taskstore.attach(strange, store)
    with pytest.raises(SwapError, match="are task 'alpha', which is not among the tasks"):
        taskstore.attach(Named(state), store, ["beta"])


def test_tensors_that_cannot_be_written_in_place(store: taskstore.Store) -> None:
    state = store.state_dict("alpha")

    def with_weight(value: torch.Tensor) -> Named:
        module = Named(state)
        layer = module.get_submodule("layers.1.mlp")
        layer.register_parameter("weight", nn.Parameter(value, requires_grad=False))
        return module

    weight = state["layers.1.mlp.weight"]
    with pytest.raises(SwapError, match=r"'layers.1.mlp.weight' is not contiguous \(strides"):
        taskstore.attach(with_weight(weight.t().contiguous().t()), store)
    shifted = torch.frombuffer(bytearray(2 * weight.numel() + 1), dtype=weight.dtype, offset=1)
    with pytest.raises(SwapError, match=r"is not aligned in memory.*tensor\.clone\(\)"):
        taskstore.attach(with_weight(shifted[: weight.numel()].view(weight.shape)), store)
    with pytest.raises(SwapError, match="on the meta device: the module is only half loaded"):
        taskstore.attach(with_weight(weight.to("meta")), store)
    with pytest.raises(SwapError, match="no plain dense tensor"):
        taskstore.attach(with_weight(weight.to_sparse()), store)
    lazy = Named(state)
    lazy.add_module("late", nn.LazyLinear(3))
    with pytest.raises(SwapError, match="'late.weight' has no shape yet"):
        taskstore.attach(lazy, store)
    whole = torch.zeros(16 * 64 + 33 * 31, dtype=torch.bfloat16)
    overlapping = with_weight(whole[: 16 * 64].view(16, 64))
    overlapping.get_submodule("layers.0.attn").register_parameter(
        "weight", nn.Parameter(whole[8 : 8 + 33 * 31].view(33, 31), requires_grad=False)
    )
    with pytest.raises(SwapError, match="share some of their memory"):
        taskstore.attach(overlapping, store)


def test_two_names_of_the_module_for_one_of_the_store(store: taskstore.Store) -> None:
    state = store.state_dict("alpha")
    module = Named({**state, "copy.weight": state["norm.weight"]})
    with pytest.raises(SwapError, match="two tensors of the module are 'norm.weight'"):
        taskstore.attach(module, store, prefix={"copy.": "norm."})


def test_no_room(store: taskstore.Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused with the sum, before anything is allocated."""
    module = Named(store.state_dict("alpha"))
    monkeypatch.setattr(devices, "free_memory", lambda _: 5000)
    with pytest.raises(NotEnoughMemory, match=r"on cpu: 0.00 GB wanted \(D 0.00, masks 0.00\)"):
        taskstore.attach(module, store)
    with pytest.raises(NotEnoughMemory, match="weights"):
        store.state_dict("alpha")


@pytest.mark.parametrize("device", ["cuda:99", "nonsense", "meta", "cpu:x"])
def test_devices_that_are_not_there(store: taskstore.Store, device: str) -> None:
    with pytest.raises(DeviceError, match="device"):
        store.state_dict("alpha", device=device)
    with pytest.raises(DeviceError, match="device"):
        store.load_model("alpha", device=device)


def test_free_memory_is_a_plausible_number() -> None:
    free = devices.free_memory(torch.device("cpu"))
    assert free is not None
    assert 1 << 20 < free < 1 << 50
    assert devices.free_memory(torch.device("mps")) is None
