"""Pack a family from S3 and from a folder, in one run; prints seconds, bytes and ratios.

    python benchmarks/remote.py --family ../shared/families/lm6
    python benchmarks/remote.py --params 1e8

The server is SeaweedFS on this machine. A small proxy before it counts what is read, and sleeps 20
ms before each request on the slow side. A store of one task of many is read, too.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import taskstore
from benchmarks.common.synthetic import task_names, write_family
from taskstore import PackOptions
from taskstore.locations.remote.addresses import Address
from taskstore.locations.remote.bucket import Bucket
from tests.support.http_faults import Proxy
from tests.support.seaweed import BUCKET, running

DELAY = 0.02  # seconds before each request goes on


@click.command()
@click.option("--family", type=click.Path(path_type=Path), help="Models, one of them `base`.")
@click.option("--params", type=float, default=1e8, show_default=True, help="Without a family.")
@click.option("--tasks", default=3, show_default=True)
@click.option("--tiers", default="rest", show_default=True)
@click.option("--work", type=click.Path(path_type=Path), default=Path("build"))
def main(family: Path | None, params: float, tasks: int, tiers: str, work: Path) -> None:
    """Measure packing from a bucket, and reading one task out of one."""
    work.mkdir(parents=True, exist_ok=True)
    table = Table("what", "seconds", "of local", "bytes read", "of weights", "requests")
    with tempfile.TemporaryDirectory(dir=work, prefix="remote-") as made, running() as server:
        root = Path(made)
        if family is None:
            family = root / "family"
            write_family(family, params=params, tasks=tasks, seed=0, dtype="bf16")
            names = list(task_names(tasks))
        else:
            own = (p for p in family.iterdir() if (p / "config.json").exists())
            names = sorted(p.name for p in own if p.name != "base")[:tasks]
        os.environ |= {**server.environment(), "TASKSTORE_CACHE": str(root / "cache")}
        weights = sent(family, ["base", *names])
        options = PackOptions(tiers=tiers)

        def packed(where: Callable[[str], object], target: Path) -> float:
            began = time.perf_counter()
            models = {name: where(name) for name in names}
            taskstore.pack(where("base"), models, target, options)  # type: ignore[arg-type]
            return time.perf_counter() - began

        def folder(name: str) -> Path:
            return family / name

        def address(name: str) -> str:
            return f"s3://{BUCKET}/family/{name}"

        packed(folder, root / "warm")
        local = packed(folder, root / "local")
        table.add_row("pack, local", f"{local:.2f}", "1.00", "", "", "")
        for delay in (0.0, DELAY):
            with Proxy(server.port, delay=delay) as proxy:
                os.environ |= server.environment(proxy.port)
                target = root / f"remote-{delay}"
                took = packed(address, target)
                row = (f"{took:.2f}", f"{took / local:.2f}", f"{proxy.received:,}")
                what = f"pack, S3{f', {delay * 1000:.0f} ms' if delay else ''}"
                share = f"{proxy.received / weights:.3f}"
                table.add_row(what, *row, share, str(len(proxy.seen)))
            table.add_row("  files that differ", str(differing(root / "local", target)), *[""] * 4)
        os.environ |= server.environment()
        store = f"s3://{BUCKET}/store"
        began = time.perf_counter()
        taskstore.copy(root / "local", None, store)
        table.add_row("copy to S3", f"{time.perf_counter() - began:.2f}", *[""] * 4)
        with Proxy(server.port) as proxy:
            os.environ |= server.environment(proxy.port)
            began = time.perf_counter()
            opened = taskstore.open(store)
            opened.unpack(names[0], root / "one")
            took = time.perf_counter() - began
            own_bytes = sum(opened.manifest.files[p].bytes for p in opened.files_of(None, names[0]))
            share = f"{proxy.received / own_bytes:.3f} of its files"
            read, requests = f"{proxy.received:,}", str(len(proxy.seen))
            table.add_row("unpack one task, S3", f"{took:.2f}", "", read, share, requests)
    Console(width=110).print(table)


def sent(family: Path, names: list[str]) -> int:
    """Put models into the bucket; returns the bytes of their weights."""
    total = 0
    for name in names:
        place = Bucket(Address("s3", BUCKET, f"family/{name}"))
        for path in sorted(p for p in (family / name).iterdir() if p.is_file()):
            place.put_file(path.name, path)
            total += path.stat().st_size if path.suffix == ".safetensors" else 0
    return total


def differing(one: Path, other: Path) -> int:
    """Count the files of two stores that are not the same."""
    names = {p.relative_to(one) for p in one.rglob("*") if p.is_file()}
    names |= {p.relative_to(other) for p in other.rglob("*") if p.is_file()}
    return sum(
        not ((one / n).is_file() and (other / n).is_file())
        or (one / n).read_bytes() != (other / n).read_bytes()
        for n in names
    )


if __name__ == "__main__":
    main()
