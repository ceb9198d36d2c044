"""No swap while the model runs, and nothing half done, whatever happens in between."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import taskstore
from taskstore.errors import ModelBusy, SwapError
from taskstore.kernels import cpu
from taskstore.swap import driver, lane
from taskstore.swap.lane import Lane
from taskstore.swap.staged_lane import StagedLane
from tests.support.modules import Named, holds


class Slow(Named):
    """Its forward pass lasts until it is told to go on."""

    def __init__(self, state: dict[str, Tensor]) -> None:
        super().__init__(state)
        self.begun, self.go_on = threading.Event(), threading.Event()

    def forward(self, x: Tensor) -> Tensor:
        first = super().forward(x)
        self.begun.set()
        assert self.go_on.wait(30)
        assert torch.equal(super().forward(x), first), "weights changed inside a forward pass"
        return first


class Running:
    """A forward pass in another thread."""

    def __init__(self, module: Slow) -> None:
        self._module = module
        self._pool = ThreadPoolExecutor(1)
        self._result = self._pool.submit(module, torch.zeros(1))
        assert module.begun.wait(30)

    def end(self) -> None:
        self._module.go_on.set()
        self._result.result(30)
        self._pool.shutdown()


@pytest.fixture
def store(packed: Path) -> taskstore.Store:
    return taskstore.open(packed)


def test_a_swap_waits_for_a_forward_pass(store: taskstore.Store) -> None:
    module = Slow(store.state_dict("alpha"))
    with taskstore.attach(module, store) as family:
        running = Running(module)
        with pytest.raises(ModelBusy, match=r"still running after 0\.05 s"):
            family.swap("beta", timeout=0.05)
        assert family.active == "alpha"
        threading.Timer(0.1, module.go_on.set).start()
        family.swap("beta")
        running.end()
        assert holds(module, store.state_dict("beta"))


def test_or_it_raises(store: taskstore.Store) -> None:
    module = Slow(store.state_dict("alpha"))
    with taskstore.attach(module, store, busy="raise") as family:
        running = Running(module)
        with pytest.raises(ModelBusy, match=r"1 thread\(s\) are running the model"):
            family.swap("beta")
        running.end()
        family.swap("beta")
        assert family.active == "beta"


def test_unguarded_puts_no_hooks_on_the_module(store: taskstore.Store) -> None:
    module = Slow(store.state_dict("alpha"))
    with taskstore.attach(module, store, busy="unguarded") as family:
        assert not module._forward_pre_hooks
        assert not module._forward_hooks
        family.swap("beta")


def test_a_pass_that_raises_does_not_count_for_ever(store: taskstore.Store) -> None:
    module = Named(store.state_dict("alpha"))
    with taskstore.attach(module, store, busy="raise") as family:
        with pytest.raises(TypeError):
            module("not a tensor")
        family.swap("beta")


def test_a_child_that_is_called_on_its_own_counts(store: taskstore.Store) -> None:
    class Child(nn.Module):
        def forward(self, swap: Callable[[], None]) -> None:
            swap()

    module = Named(store.state_dict("alpha"))
    module.add_module("child", Child())
    with taskstore.attach(module, store) as family:
        with pytest.raises(ModelBusy, match="this thread is inside the model"):
            module.get_submodule("child")(lambda: family.swap("beta"))
        assert family.active == "alpha"


def test_using_keeps_a_task_for_a_block(store: taskstore.Store) -> None:
    module = Named(store.state_dict("alpha"))
    with taskstore.attach(module, store) as family, ThreadPoolExecutor(1) as pool:
        with family.using("beta"):
            assert family.active == "beta"
            other = pool.submit(family.swap, "gamma")
            with family.using("beta"):  # a nested one is no new reader, so it does not wait
                time.sleep(0.05)
            assert not other.done()
            assert holds(module, store.state_dict("beta"))
            with pytest.raises(ModelBusy):
                family.swap("alpha")
        other.result(30)
        assert family.active == "gamma"


def test_many_threads_each_see_their_own_task(store: taskstore.Store) -> None:
    expected = {task: store.state_dict(task) for task in store.tasks}
    module = Named(expected["alpha"])
    with taskstore.attach(module, store) as family:

        def work(i: int) -> bool:
            task = store.tasks[i % 3]
            with family.using(task):
                return holds(module, expected[task])

        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(work, range(200)))


@pytest.fixture(params=[Lane, StagedLane], ids=lambda kind: kind.__name__)
def failing(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Callable[[set[int]], None]:
    """fail({calls}) makes these calls of the kernel from then on raise; small units."""
    calls: dict[str, Any] = {"n": 0, "bad": set()}

    def swap(*args: Any) -> None:
        calls["n"] += 1
        if calls["n"] in calls["bad"]:
            raise MemoryError("the kernel fails here")
        cpu.swap(*args)

    def fail(bad: set[int]) -> None:
        calls.update(n=0, bad=bad)

    def native(memory: Tensor, size: int) -> Any:
        return memory.numpy().view(f"<u{size}")

    monkeypatch.setattr(driver, "lane_class", lambda *_: request.param)
    monkeypatch.setattr(lane, "kernel_for", lambda _: (swap, native))
    monkeypatch.setattr(lane, "UNIT", 128)
    return fail


@pytest.mark.parametrize("at", [1, 2, 3, 5, 7])
def test_a_kernel_that_fails_leaves_the_task_that_was(
    failing: Callable[[set[int]], None], at: int, store: taskstore.Store
) -> None:
    module = Named(store.state_dict("alpha"))
    with taskstore.attach(module, store, jobs=1) as family:
        failing({at})
        with pytest.raises(SwapError, match="failed and was undone, task 'alpha' is live"):
            family.swap("beta")
        assert family.active == "alpha"
        assert family.verify().task == "alpha"
        failing(set())
        for task in ("beta", None, "gamma"):
            family.swap(task)
            assert holds(module, store.state_dict(task))


def test_where_undoing_fails_too_the_family_says_so(
    failing: Callable[[set[int]], None], store: taskstore.Store
) -> None:
    module = Named(store.state_dict("alpha"))
    with taskstore.attach(module, store, jobs=1) as family:
        failing({4, 5, 6})
        with pytest.raises(SwapError, match="could not be undone"):
            family.swap("beta")
        failing(set())
        for call in (lambda: family.active, lambda: family.swap("alpha"), family.verify):
            with pytest.raises(SwapError, match="load the model again"):
                call()


def test_an_interrupt_ends_after_a_whole_swap(
    store: taskstore.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C while the weights move: the swap is finished, then KeyboardInterrupt is raised."""

    def slow(*args: Any) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.05)
        cpu.swap(*args)

    def native(memory: Tensor, size: int) -> Any:
        return memory.numpy().view(f"<u{size}")

    monkeypatch.setattr(lane, "kernel_for", lambda _: (slow, native))
    module = Named(store.state_dict("alpha"))
    with taskstore.attach(module, store, prove=False) as family:  # which runs the kernel, too
        with pytest.raises(KeyboardInterrupt):
            family.swap("beta")
        assert family.active == "beta"
        assert holds(module, store.state_dict("beta"))
        assert family.verify().task == "beta"
