"""Pack a family on a Ray cluster of one worker and of two; prints seconds and the ratio.

    python benchmarks/workers.py --params 3e7

Each worker is a node with one core on the loopback. Rounds with one worker come first, then a node
joins and the rounds with two follow; each is the whole command, joining and manifest included. The
ratio is the speed of two over twice that of one.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click

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
        medians = []
        for workers in (1, 2):
            if workers == 2:
                cluster.add_node(**NODE)
                cluster.wait_for_nodes()
            seconds = []
            for turn in range(rounds + 1):  # the first starts Ray's processes
                began = time.perf_counter()
                options = PackOptions(tiers=tiers, jobs=1)
                pack_on(cluster.address, base, models, work / f"{workers}-{turn}", options)
                seconds.append(time.perf_counter() - began)
            medians.append(statistics.median(seconds[1:]))
            print(workers, "workers:", ", ".join(f"{s:.2f}" for s in seconds[1:]), "s", flush=True)
        print(f"speed of two over twice that of one: {medians[0] / medians[1] / 2:.3f}", flush=True)
        ray.shutdown()
        cluster.shutdown()  # type: ignore[no-untyped-call]


if __name__ == "__main__":
    main()
