"""Swaps are exact, reversible and all or nothing, on every lane and kernel."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import taskstore
from taskstore.errors import ChecksumMismatch, SwapError, UnknownTask
from taskstore.kernels import dispatch, reference
from taskstore.swap import driver, lane
from taskstore.swap.lane import Lane
from taskstore.swap.staged_lane import StagedLane
from tests.support import families, forge
from tests.support.modules import ConvNet, Named, holds, state_of

STATES = ["alpha", "beta", "gamma", None]


class DeviceLane(Lane):
    """As on a device with masks="device": one thread, which Triton's interpreter needs too."""

    parallel = False


def _use(monkeypatch: pytest.MonkeyPatch, kind: type[Lane], kernel: str) -> None:
    """Run the lane that a GPU would have, or another device's kernel, on the CPU."""
    monkeypatch.setattr(driver, "lane_class", lambda *_: kind)
    monkeypatch.setattr(lane, "UNIT", 128)
    monkeypatch.setattr(lane, "BLOCK", 128)
    if kernel == "torch":
        monkeypatch.setattr(lane, "kernel_for", lambda _: (reference.swap, dispatch._view))
    if kernel == "triton":
        triton = pytest.importorskip("taskstore.kernels.triton")
        monkeypatch.setattr(lane, "kernel_for", lambda _: (triton.swap, dispatch._view))


@pytest.fixture(
    params=[
        (Lane, "native"),
        (DeviceLane, "torch"),
        (DeviceLane, "triton"),
        (StagedLane, "native"),
        (StagedLane, "torch"),
        (StagedLane, "triton"),
    ],
    ids=lambda p: f"{p[0].__name__}-{p[1]}",
)
def lanes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every lane and kernel, in units so small that tensors are cut."""
    _use(monkeypatch, *request.param)


def test_every_pair_of_states(lanes: None, packed: Path) -> None:
    store = taskstore.open(packed)
    expected = {state: store.state_dict(state) for state in STATES}
    module = Named(expected["beta"])
    with taskstore.attach(module, store) as family:
        assert (family.active, family.tasks) == ("beta", ["alpha", "beta", "gamma"])
        for old in STATES:
            for new in STATES:
                family.swap(old)
                family.swap(new)
                assert family.active == new
                assert holds(module, expected[new])
                assert family.verify().task == new
    assert holds(module, expected[None])


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_other_dtypes(lanes: None, dtype: torch.dtype, tmp_path: Path) -> None:
    family = families.family(tmp_path, tasks=2, dtype=dtype)
    taskstore.pack(family.base_path, family.paths, tmp_path / "store", families.options())
    store = taskstore.open(tmp_path / "store")
    module = Named(family.base)
    with taskstore.attach(module, store) as attached:
        for task in ("alpha", "beta", None, "alpha"):
            attached.swap(task)
            assert holds(module, store.state_dict(task))


def test_ten_thousand_swaps_end_where_they_began(packed: Path) -> None:
    store = taskstore.open(packed)
    module = Named(store.state_dict("alpha"))
    with taskstore.attach(module, store) as family:
        began = family.verify()
        for i in range(9_999):
            family.swap(("beta", None, "alpha")[i % 3])
        assert family.verify() == began


@given(st.lists(st.sampled_from(STATES), max_size=12))
def test_any_walk_ends_at_its_last_state(packed: Path, walk: list[str | None]) -> None:
    store = taskstore.open(packed)
    module = Named(store.state_dict(None))
    with taskstore.attach(module, store, jobs=1) as family:
        for task in walk:
            family.swap(task)
        assert holds(module, store.state_dict(walk[-1] if walk else None))


def test_some_tasks_only(packed: Path) -> None:
    store = taskstore.open(packed)
    module = Named(store.state_dict(None))
    with taskstore.attach(module, store, ["gamma", "gamma"]) as family:
        assert family.tasks == ["gamma"]
        with pytest.raises(UnknownTask, match="did you mean 'gamma'"):
            family.swap("gama")
        with pytest.raises(UnknownTask):
            family.swap("alpha")
        family.swap("gamma")
        assert holds(module, store.state_dict("gamma"))


def test_memory_is_live_and_delta_and_a_bit_per_task(packed: Path) -> None:
    store = taskstore.open(packed)
    state = store.state_dict(None)
    size = sum(value.numel() * 2 for value in state.values())
    padding = 64 * len(state)
    for tasks in (["alpha", "beta"], ["alpha", "beta", "gamma"]):
        with taskstore.attach(Named(state), store, tasks) as family:
            memory = family.memory()
        bits = len(tasks) * size // 16
        assert (memory.live, memory.delta, memory.values) == (size, size, 0)
        assert bits <= memory.masks <= bits + len(tasks) * padding
        assert memory.total == memory.live + memory.delta + memory.masks


def test_staged_memory(packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _use(monkeypatch, StagedLane, "torch")
    store = taskstore.open(packed)
    with taskstore.attach(Named(store.state_dict(None)), store) as family:
        memory = family.memory()
    assert memory.masks_on_host
    assert memory.active * 3 == memory.masks
    assert memory.staging == 2 * 128


def test_weights_that_agree_are_not_touched(small: families.Family, tmp_path: Path) -> None:
    """A tensor that no task changed is in no unit; where two masks agree the kernel writes not."""
    frozen = {**small.tasks["alpha"], "norm.weight": small.base["norm.weight"]}
    other = {**small.tasks["beta"], "norm.weight": small.base["norm.weight"]}
    family = families.Family(tmp_path, small.base, {"a": frozen, "b": other})
    taskstore.pack(family.base_path, family.paths, tmp_path / "store", families.options())
    store = taskstore.open(tmp_path / "store")
    module = Named(store.state_dict("a"))
    norm = module.get_parameter("norm.weight")
    before = norm._version
    with taskstore.attach(module, store) as attached:
        assert attached.memory().delta == sum(
            value.numel() * 2 for name, value in small.base.items() if name != "norm.weight"
        )
        attached.swap("b")
    assert holds(module, store.state_dict("b"))
    assert norm._version > before  # autograd is told of the whole module


def test_inference_tensors(packed: Path) -> None:
    store = taskstore.open(packed)
    with torch.inference_mode():
        module = Named(store.state_dict("alpha"))
    with taskstore.attach(module, store) as family:
        family.swap("beta")
    assert holds(module, store.state_dict("beta"))


def _conv_family(root: Path) -> taskstore.Store:
    torch.manual_seed(0)
    models = [ConvNet() for _ in range(3)]
    for model in models[1:]:
        model.load_state_dict(models[0].state_dict())
        model.train()
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        for _ in range(2 + models.index(model)):
            optimizer.zero_grad()
            model(torch.randn(8, 3, 12, 12)).square().mean().backward()
            optimizer.step()
    states = [state_of(model) for model in models]
    family = families.Family(root, states[0], {"one": states[1], "two": states[2]})
    taskstore.pack(family.base_path, family.paths, root / "store", families.options())
    return taskstore.open(root / "store")


def test_a_convolution_net(lanes: None, tmp_path: Path) -> None:
    """Batch norm counters are integers that each task has its own of: they are copied."""
    store = _conv_family(tmp_path)
    module = ConvNet().eval()
    module.load_state_dict(store.state_dict("one"))
    x = torch.randn(2, 3, 12, 12)
    expected: dict[str | None, Any] = {}
    for state in ("one", "two", None):
        fresh = ConvNet().eval()
        fresh.load_state_dict(store.state_dict(state))
        expected[state] = fresh(x)
    with taskstore.attach(module, store) as family:
        assert family.memory().values == 2 * 3 * 8
        for state in ("two", None, "one", "two"):
            family.swap(state)
            assert torch.equal(module(x), expected[state])
            assert module.stem[1].num_batches_tracked == {"one": 3, "two": 4, None: 0}[state]


def test_a_damaged_store_is_refused(packed: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(packed, copy)
    store = taskstore.open(copy)
    module = Named(store.state_dict("alpha"))
    path = copy / "tasks" / "beta" / "masks.safetensors"
    raw = bytearray(path.read_bytes())
    raw[-100] ^= 1
    path.write_bytes(raw)
    with pytest.raises(ChecksumMismatch, match="tasks/beta/masks"):
        taskstore.attach(module, store)
    with taskstore.attach(module, store, ["alpha", "gamma"]) as family:
        family.swap("gamma")


def test_a_forged_store_is_refused(lanes: None, packed: Path, tmp_path: Path) -> None:
    """Its files are as the manifest records them; what swaps would give is not."""
    copy = tmp_path / "copy"
    shutil.copytree(packed, copy)
    forge.swap_chunks(copy, "tasks/beta/masks.safetensors", "layers.1.mlp.weight", 4)
    store = taskstore.open(copy)
    for live, tasks in (("alpha", ["alpha", "beta"]), ("beta", None), (None, ["beta"])):
        module = Named(taskstore.open(packed).state_dict(live))
        before = state_of(module)
        with pytest.raises(ChecksumMismatch, match="'layers.1.mlp.weight' of task 'beta'"):
            taskstore.attach(module, store, tasks)
        assert holds(module, before)
    with taskstore.attach(module, store, ["alpha", "gamma"]) as family:
        family.swap("gamma")


def test_a_closed_family(packed: Path) -> None:
    store = taskstore.open(packed)
    module = Named(store.state_dict("alpha"))
    family = taskstore.attach(module, store)
    family.close()
    family.close()
    for call in (lambda: family.swap("beta"), family.verify, lambda: family.active):
        with pytest.raises(SwapError, match="closed"):
            call()
    assert holds(module, store.state_dict("alpha"))
    assert not module._forward_pre_hooks
