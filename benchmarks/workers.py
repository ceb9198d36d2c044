"""Pack a family on a Ray cluster of one worker and of two, in turn; prints seconds and the ratio.

    python benchmarks/workers.py --params 3e7

Each worker is a node with one core on the loopback; one of two is kept busy by an actor while one
worker is measured. A round is the whole command, joining and manifest included, the start of
workers left out; processor time is that of the driver, Ray and the workers. The ratio is the speed
of two over twice that of one.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import click
import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.common.synthetic import task_names, write_family
from taskstore import PackOptions
from taskstore.packing.parts import units
from taskstore.packing.parts.driver import pack_on

SETTINGS = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # else a cluster on the loopback hangs
    "RAY_USAGE_STATS_ENABLED": "0",
    "OMP_NUM_THREADS": "1",
}
NODE: dict[str, Any] = {
    "num_cpus": 1,
    "node_ip_address": "127.0.0.1",
    "object_store_memory": 100_000_000,
}


def ready() -> None:
    """Let a worker's process start, and keep it for long enough that each gets one."""
    import taskstore.packing.parts.coded  # noqa: F401

    time.sleep(0.5)


class Round(NamedTuple):
    """Seconds of a command: all, until its units were coded, and of processors."""

    seconds: float
    coded: float
    driver: float
    every: float


def measured(pack: Callable[..., object]) -> Round:
    last = [0.0]

    def progress(_: object) -> None:
        last[0] = time.perf_counter()

    driver, every, began = time.process_time(), of_processors(), time.perf_counter()
    pack(progress=progress)
    ended = time.perf_counter()
    return Round(
        ended - began, last[0] - began, time.process_time() - driver, of_processors() - every
    )


def of_processors() -> float:
    """Seconds of processors of this process and all that it started and that runs."""
    me = psutil.Process()
    found = 0.0
    for process in (me, *me.children(recursive=True)):
        with suppress(psutil.Error):
            times = process.cpu_times()
            found += times.user + times.system
    return found


@contextmanager
def one_less(ray: Any) -> Iterator[None]:
    """Keep one core of the cluster from its work."""

    class Idle:
        def ready(self) -> None:
            """Be there."""

    actor = ray.remote(num_cpus=1)(Idle).remote()
    ray.get(actor.ready.remote())
    yield
    ray.kill(actor)


@click.command()
@click.option("--params", type=float, default=3e7, show_default=True)
@click.option("--tasks", type=int, default=3, show_default=True)
@click.option("--tiers", default="rest", show_default=True)
@click.option("--rounds", type=int, default=3, show_default=True)
@click.option("--unit", type=int, default=8, show_default=True, help="MiB of models of a unit.")
def main(params: float, tasks: int, tiers: str, rounds: int, unit: int) -> None:
    """Measure one worker, and two."""
    os.environ.update(SETTINGS)  # read when Ray is imported
    import ray
    from ray.cluster_utils import Cluster

    units.LEAST = unit << 20
    with tempfile.TemporaryDirectory() as made:
        work = Path(made)
        write_family(work / "family", params=params, tasks=tasks, dtype="bf16")
        base = work / "family" / "base"
        models = {name: work / "family" / name for name in task_names(tasks)}
        cluster = Cluster(initialize_head=True, head_node_args={**NODE, "include_dashboard": False})
        cluster.add_node(**NODE)
        cluster.wait_for_nodes()
        taken: dict[int, list[Round]] = {1: [], 2: []}
        print("workers  seconds  coded after  processor: driver  all", flush=True)
        for turn in range(rounds):
            for workers in (2, 1) if turn % 2 else (1, 2):
                options = PackOptions(tiers=tiers, jobs=1)
                pack = partial(
                    pack_on, cluster.address, base, models, work / f"{workers}-{turn}", options
                )
                with one_less(ray) if workers == 1 else nullcontext():
                    ray.get([ray.remote(num_cpus=1)(ready).remote() for _ in range(2 * workers)])
                    found = measured(pack)
                taken[workers].append(found)
                print(f"{workers:7}  " + "  ".join(f"{value:.2f}" for value in found), flush=True)
        one, two = (statistics.median(r.seconds for r in taken[n]) for n in (1, 2))
        print(f"speed of two over twice that of one: {one / two / 2:.3f}", flush=True)
        ray.shutdown()
        cluster.shutdown()  # type: ignore[no-untyped-call]


if __name__ == "__main__":
    main()
