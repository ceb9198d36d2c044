"""`taskstore load`"""

from __future__ import annotations

import statistics
import time
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from taskstore_cli.arguments import common
from taskstore_cli.arguments.command import command
from taskstore_cli.output.console import Output, counted, print_json, size

if TYPE_CHECKING:
    from taskstore.progress import Callback
    from taskstore.store import Store


@command()
@click.argument("store", type=common.StorePath(), is_eager=True)
@click.argument("task", type=common.TaskName(), required=False)
@click.option("--base", is_flag=True, help="The base instead of a task.")
@common.tier_option
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda, cuda:1, ...")
@click.option("--time", "timed", is_flag=True, help="Load several times and tell how fast.")
@click.option(
    "--repeat",
    type=click.IntRange(min=1),
    default=3,
    show_default=True,
    help="With --time: loads that count, after one that does not.",
)
@common.base_from_option
@common.jobs_option
@common.says_options
def load(
    store: Path,
    task: str | None,
    base: bool,
    tier: str | None,
    device: str,
    timed: bool,
    repeat: int,
    base_from: Path | None,
    jobs: int | None,
    out: Output,
) -> None:
    """Load TASK of STORE onto a device, and check every tensor.

    With --time it tells how fast the loader is on this machine. The first load also fills the page
    cache and loads the compiled loops, so it stands apart.
    """
    from taskstore import ApproximationWarning, extras

    extras.need("load", "torch")
    from taskstore.devices import resolve

    if (task is not None) + base != 1:
        raise click.UsageError("name one TASK, or give --base")
    opened = common.opened(store, base_from)
    resolve(device)
    fidelity = opened.fidelity(task, tier)
    with warnings.catch_warnings(), out.progress() as progress:
        warnings.simplefilter("ignore", ApproximationWarning)  # said below
        loads = [
            _load(opened, task, tier, device, jobs, progress)
            for _ in range(1 + repeat if timed else 1)
        ]
    times = [load.seconds for load in loads]
    tensors, total = loads[0].tensors, loads[0].bytes
    first, best = times[0], statistics.median(times[1:] or times)
    if out.as_json:
        print_json(
            {
                "task": task,
                "fidelity": asdict(fidelity),
                "device": device,
                "tensors": tensors,
                "bytes": total,
                "seconds": times,
                "bytes_per_second": total / best,
            }
        )
    elif not out.quiet:
        name = task or "the base"
        click.echo(
            f"{name}: {counted(tensors, 'tensor')}, {size(total)} on {device}, every checksum right"
        )
        click.echo(f"{name}: {fidelity.words}")
        if timed:
            click.echo(f"first load   {first:8.3f} s   {size(total / first)}/s")
            click.echo(f"median of {repeat:<3}{best:8.3f} s   {size(total / best)}/s")


@dataclass(frozen=True)
class Load:
    """One load; tensors that share their memory count once in `bytes`."""

    seconds: float
    tensors: int
    bytes: int


def _load(
    store: Store,
    task: str | None,
    tier: str | None,
    device: str,
    jobs: int | None,
    progress: Callback,
) -> Load:
    began = time.perf_counter()
    state = store.state_dict(task, tier=tier, device=device, jobs=jobs, progress=progress)
    seconds = time.perf_counter() - began
    memory = {value.data_ptr(): value.nbytes for value in state.values()}
    return Load(seconds, len(state), sum(memory.values()))
