"""Packing on a Ray cluster of two nodes on this machine: same bytes, whatever is killed."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import taskstore
from taskstore.cluster import connect
from taskstore.errors import InputError, NotFinite, OptionError, OutputError
from taskstore.locations.remote.claims import where_parts_lie
from taskstore.packing.parts import driver, units
from taskstore.packing.parts.driver import pack_on
from taskstore.packing.revise import retier
from tests.support import families
from tests.support.families import Family, contents, options

NODE = {"num_cpus": 1, "node_ip_address": "127.0.0.1", "object_store_memory": 100_000_000}
SETTINGS = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # else a cluster on the loopback hangs
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "OMP_NUM_THREADS": "1",
}
os.environ.update(SETTINGS)  # read when Ray is imported: tests do that, modules do not
pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("ray"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


def patiently(start: Callable[[], Any]) -> Any:
    """Start again what missed the 30 s that Ray gives a node, as on a busy machine."""
    for _ in range(3):
        with suppress(Exception):  # Ray raises just this
            return start()
    return start()


class Nodes:
    """The cluster; `second` is the node that a test may kill, and that is there again after it."""

    def __init__(self, cluster: Any) -> None:
        self._cluster = cluster
        self.address: str = cluster.address
        self.second = self._another()

    def _another(self) -> Any:
        return patiently(lambda: self._cluster.add_node(**NODE))

    def kill_second(self) -> None:
        self._cluster.remove_node(self.second, allow_graceful=False)

    def join_another(self) -> None:
        self.second = self._another()


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    head = {**NODE, "include_dashboard": False}
    cluster = patiently(lambda: Cluster(initialize_head=True, head_node_args=head))
    try:
        yield Nodes(cluster)
    finally:
        ray.shutdown()
        cluster.shutdown()


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Family:
    """A family whose tensors take a moment, so that something can be killed in the middle."""
    shapes = {f"layers.{n}.weight": (128, 128) for n in range(24)}
    return families.family(tmp_path_factory.mktemp("large"), shapes=shapes)


@pytest.fixture(autouse=True)
def small_units(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(units, "LEAST", 1)


CHOSEN: dict[str, Any] = {"tiers": "rest,exact", "level": "archive"}


def records(target: Path) -> list[Path]:
    return [p for p in Path(where_parts_lie(target)).glob("units-*/unit-*") if "." not in p.name]


def once_begun(target: Path, strike: Any) -> threading.Thread:
    """Strike when the first units are done."""

    def wait() -> None:
        until = time.monotonic() + 300
        while len(records(target)) < 2 and time.monotonic() < until:
            time.sleep(0.005)
        strike()

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


def workers_of_ray() -> list[int]:
    """Processes of Ray's workers that do a unit now, by their titles."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                title = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if title.startswith(b"ray::_work"):
                found.append(int(entry.name))
    return found


@pytest.mark.parametrize("killed", ["a worker", "a node"])
def test_the_bytes_are_those_of_one_machine(
    nodes: Nodes, large: Family, tmp_path: Path, killed: str
) -> None:
    chosen = options(chunk=1024, **CHOSEN)
    struck = list[int]()

    def strike() -> None:
        if killed == "a node":
            nodes.kill_second()
            struck.append(0)
        while not struck and not over.is_set():
            for pid in workers_of_ray()[:1]:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    struck.append(pid)

    for turn in range(10):  # until it is not over before
        target, over = tmp_path / f"many{turn}", threading.Event()
        thread = once_begun(target, strike)
        report = pack_on(nodes.address, large.base_path, large.paths, target, chosen)
        over.set()
        thread.join()
        if struck:
            break
    if killed == "a node":
        nodes.join_another()
    assert struck
    one = taskstore.pack(large.base_path, large.paths, tmp_path / "one", chosen)
    assert contents(target) == contents(tmp_path / "one")
    assert report.summary == one.summary
    assert not (
        Path(where_parts_lie(target)) / "asked"
    ).exists()  # a node may put a unit as it goes


def test_a_driver_that_died_is_taken_up(
    nodes: Nodes, small: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen, target = options(method="ties"), tmp_path / "s"

    def dies(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(driver, "sealed", dies)
        with pytest.raises(KeyboardInterrupt):
            pack_on(nodes.address, small.base_path, small.paths, target, chosen)
    with pytest.raises(OutputError, match="resume it with"):
        pack_on(nodes.address, small.base_path, small.paths, target, chosen)
    with pytest.raises(InputError, match="other options"):
        other = options(method="ties", lam=0.1)
        pack_on(nodes.address, small.base_path, small.paths, target, other, resume=True)
    before = {path.name: path.stat().st_mtime_ns for path in records(target)}
    assert before
    with monkeypatch.context() as patched:
        patched.setattr(driver, "remove_parts", lambda *_: None)
        pack_on(nodes.address, small.base_path, small.paths, target, chosen, resume=True)
    assert {path.name: path.stat().st_mtime_ns for path in records(target)} == before
    taskstore.pack(small.base_path, small.paths, tmp_path / "one", chosen)
    assert contents(target) == contents(tmp_path / "one")


def test_errors_come_as_they_are(nodes: Nodes, tmp_path: Path) -> None:
    base = families.random_state(0)
    bad = families.tuned(base, 1)
    bad["norm.weight"][0] = float("nan")
    family = Family(tmp_path, base, {"one": bad, "two": families.tuned(base, 2)})
    with pytest.raises(taskstore.TaskstoreError) as here:
        taskstore.pack(family.base_path, family.paths, tmp_path / "s", options(tiers="rest"))
    with pytest.raises(taskstore.TaskstoreError) as there:
        pack_on(
            nodes.address, family.base_path, family.paths, tmp_path / "s", options(tiers="rest")
        )
    assert str(there.value) == str(here.value) and "norm.weight" in str(there.value)
    assert isinstance(here.value, NotFinite)


def test_no_cluster_is_wrong_usage(
    small: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = pytest.importorskip("ray")

    def init(**_: Any) -> None:
        raise ConnectionError("Could not find any running Ray instance.\nmore")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(OptionError, match="'auto' cannot be joined .*instance.*ray start --head"):
        pack_on("auto", small.base_path, small.paths, tmp_path / "s")
    assert list(tmp_path.iterdir()) == []


def test_an_address_where_nothing_answers_is_refused_before_ray_tries(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ray = pytest.importorskip("ray")
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda **_: pytest.fail("Ray was asked"))
    with socket.socket() as bound:  # and does not listen
        bound.bind(("127.0.0.1", 0))
        with pytest.raises(OptionError, match=r"joined \(Connection refused\): start one"):
            connect(f"127.0.0.1:{bound.getsockname()[1]}")
    with pytest.raises(OptionError, match="'x' is no port"):
        connect("127.0.0.1:x")


def test_what_else_runs_on_it(nodes: Nodes, small: Family, tmp_path: Path) -> None:
    """Each with the bytes of this machine; tests/test_on_cluster.py has the cases."""
    *first, (name, path) = small.paths.items()
    score = f"{sys.executable} -c 'print(1)' {{model}} {{task}}"
    found: list[dict[str, Any]] = []
    for where, address in (("here", None), ("there", nodes.address)):
        store = tmp_path / where / "s"
        store.parent.mkdir()
        taskstore.pack(small.base_path, dict(first), store, options(tiers="exact"))
        with taskstore.on_cluster(address):
            taskstore.add(store, {name: path}, taskstore.AddOptions(tiers="exact"))
            taskstore.open(store).unpack_all(tmp_path / where / "all")
            merged = taskstore.MergeOptions("ties", shard_bytes=4000)
            taskstore.merge(store, None, tmp_path / where / "merged", merged)
            retier(taskstore.open(store), options(tiers="rest"), tmp_path / where / "rests")
            report = taskstore.verify(store, deep=True)
            scores = taskstore.evaluate(store, score)
        data = {n: b for n, b in contents(tmp_path / where).items() if n.endswith(".safetensors")}
        found.append({**data, "report": report, "scores": scores.to_dict()})
    here, there = found
    assert there.keys() == here.keys()
    assert [key for key in here if here[key] != there[key]] == []
