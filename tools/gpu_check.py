"""Check taskstore on one GPU: kernels against the oracle, families of real sizes, one table, JSON.

    python tools/gpu_check.py --json gpu.json                 some 8 minutes, on one H200
    python tools/gpu_check.py --device cpu --params 2e6 --elements 1e5      the same, small

It needs torch, triton, transformers, safetensors and what taskstore itself needs; no vLLM, no
network. Families are made on the device and written below --work: about 8 bytes a parameter in
16 bits. A family that would not be done before --minutes are over is left out, and said. Status 1
where a result is wrong; a slow one is a figure.
"""

from __future__ import annotations

import argparse
import gc
import json
import shutil
import statistics
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from safetensors.torch import load_file

import taskstore
from benchmarks.common.llama_shapes import of_size
from benchmarks.common.on_device import write_family
from benchmarks.on_gpu.mixed import mixed
from benchmarks.on_gpu.swaps import kernels, rests
from benchmarks.swapping.clock import finish, is_cuda, name_of

TASKS = ("one", "two")
RESTS = 2e7  # parameters of the family whose rests are proved


@dataclass(frozen=True)
class Row:
    """One result. `ratio` is taskstore's seconds over the other's; `right` None: only a figure."""

    what: str
    seconds: float | None = None
    against: str = ""
    other_seconds: float | None = None
    nbytes: int | None = None  # read and written in `seconds`
    right: bool | None = None
    note: str = ""

    @property
    def ratio(self) -> float | None:
        if self.seconds is None or not self.other_seconds:
            return None
        return self.seconds / self.other_seconds


@dataclass
class Check:
    """What is asked for, and what was found."""

    device: torch.device
    work: Path
    elements: int
    until: float
    rows: list[Row] = field(default_factory=list)

    def add(self, what: str, **found: Any) -> None:
        self.rows.append(Row(what, **found))

    def seconds(self, call: Callable[[], Any], repeat: int = 5) -> float:
        """Median of some calls after one that does not count; the device is waited for."""
        found = []
        for _ in range(repeat + 1):
            finish(str(self.device))
            began = time.perf_counter()
            call()
            finish(str(self.device))
            found.append(time.perf_counter() - began)
        return statistics.median(found[1:])

    def tried(self, what: str, part: Callable[[], None]) -> None:
        """Do a part; where it fails, that is its result, and the others go on."""
        try:
            part()
        except Exception as error:
            traceback.print_exc()
            self.add(what, right=False, note=f"{type(error).__name__}: {error}"[:300])

    def allocated(self) -> int:
        """Bytes of tensors on the device; 0 where nobody counts them."""
        gc.collect()
        return torch.cuda.memory_allocated(self.device) if is_cuda(str(self.device)) else 0


def family(check: Check, parameters: float, tiers: str = "mask") -> None:
    """Pack, load, attach and swap a family: right to the bit, and how long beside plain ways."""
    model = of_size(parameters)
    tier = tiers.split(",")[-1]
    label, root = f"{model.parameters:.3g}, {tiers}", check.work / f"family-{parameters:g}-{tiers}"
    nbytes = write_family(root, model, TASKS, check.device)
    options = taskstore.PackOptions(tiers=tiers, base="reference")
    began = time.perf_counter()
    paths = {task: root / task for task in TASKS}
    taskstore.pack(root / "base", paths, root / "store", options)
    check.add(f"{label}: pack", seconds=time.perf_counter() - began, note=f"{len(TASKS)} tasks")
    opened = taskstore.open(root / "store", base=root / "base")
    began = time.perf_counter()
    live = opened.load_model(TASKS[0], device=str(check.device))
    finish(str(check.device))
    own = time.perf_counter() - began
    file = root / TASKS[0] / "model.safetensors"
    plain = check.seconds(lambda: load_file(file, device=str(check.device)), repeat=1)
    check.add(f"{label}: load_model", seconds=own, against="load_file", other_seconds=plain,
              nbytes=nbytes)  # fmt: skip
    before = check.allocated()
    began = time.perf_counter()
    with taskstore.attach(live, opened, masks="device", tier=tier) as attached:
        finish(str(check.device))
        check.add(f"{label}: attach, proved", seconds=time.perf_counter() - began)
        swaps(check, label, attached, live, file, nbytes)
        figures = {one.name: one for one in opened.summary().tiers}
        memory(check, label, attached, check.allocated() - before, figures[tier].serving_bytes)
        for task in (None, *TASKS):
            attached.swap(task)
            attached.verify()  # raises where a bit is wrong
        check.add(f"{label}: every tensor of every task", right=True, note="proved by its digest")
        graphs(check, label, attached, live)
    opened.close()


def swaps(check: Check, label: str, attached: Any, live: Any, file: Path, nbytes: int) -> None:
    """A swap beside a copy of all weights, and beside loading the file."""
    order = cycle(reversed(TASKS))
    own = check.seconds(lambda: attached.swap(next(order)))
    weights = list(live.state_dict().values())
    others = [torch.empty_like(one) for one in weights]

    def copy() -> None:
        for other, weight in zip(others, weights, strict=True):
            other.copy_(weight)

    copied = check.seconds(copy)
    others.clear()
    loaded = check.seconds(lambda: load_file(file, device=str(check.device)), repeat=1)
    for against, seconds in (("copy of all weights", copied), ("load_file", loaded)):
        check.add(f"{label}: swap", seconds=own, against=against, other_seconds=seconds,
                  nbytes=nbytes)  # fmt: skip


def memory(check: Check, label: str, attached: Any, grown: int, promised: int) -> None:
    """What attach took, what it says that it takes, and what `info` says before."""
    found = attached.memory()
    said = found.total - found.live
    note = f"attach says {said:,} bytes, info about {promised:,}"
    right: bool | None = abs(said - promised) <= 0.05 * promised + (1 << 20)
    if is_cuda(str(check.device)):
        right = right and abs(grown - said) <= 0.05 * said + (64 << 20)
        note += f", the device gave {grown:,}"
    check.add(f"{label}: memory beside the weights", right=right, note=note)


def graphs(check: Check, label: str, attached: Any, live: Any) -> None:
    """A CUDA graph of a forward pass, replayed after swaps: the weights it reads are the task's."""
    if not is_cuda(str(check.device)):
        check.add(f"{label}: CUDA graph around swaps", note="needs a GPU")
        return
    ids = torch.arange(16, device=check.device)[None]
    with torch.inference_mode():
        side = torch.cuda.Stream(check.device)  # type: ignore[no-untyped-call]
        with torch.cuda.stream(side):
            for _ in range(3):
                live(ids, use_cache=False)
        torch.cuda.synchronize(check.device)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            said = live(ids, use_cache=False).logits
        right = True
        for task in (*TASKS, None, TASKS[0]):
            attached.swap(task)
            graph.replay()
            torch.cuda.synchronize(check.device)
            wanted = live(ids, use_cache=False).logits
            far = (said - wanted).abs().max() / wanted.abs().max()
            right = right and bool(far < 1e-2)  # other weights are much farther away
    check.add(f"{label}: CUDA graph around swaps", right=right, note="replayed beside eager")


def run(given: argparse.Namespace) -> list[Row]:
    began = time.monotonic()
    device = torch.device(given.device)
    with tempfile.TemporaryDirectory(prefix="gpu-check-", dir=given.work) as scratch:
        work = Path(scratch)
        check = Check(device, work, int(given.elements), began + 60 * given.minutes)
        for part in (kernels, rests, mixed):
            check.tried(part.__name__, partial(part, check))
        jobs = [(min(RESTS, *given.params), "mask,rest"), *((n, "mask") for n in given.params)]
        rate = 0.0  # seconds a parameter, of the family before
        for size, tiers in jobs:
            if time.monotonic() + rate * size > check.until:
                check.add(f"{size:g}, {tiers}", note="left out: it would take too long")
                continue
            start = time.monotonic()
            check.tried(f"{size:g}, {tiers}", partial(family, check, size, tiers))
            shutil.rmtree(work / f"family-{size:g}-{tiers}")
            gc.collect()
            if tiers == "mask":  # start-up is most of what the first takes
                rate = (time.monotonic() - start) / size
    return check.rows


def show(rows: list[Row], title: str) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("what", "seconds", "GB/s", "against", "seconds", "ratio", "", title=title)
    for row in rows:
        rate = row.nbytes / row.seconds / 1e9 if row.nbytes and row.seconds else None
        verdict = {True: "right", False: "[bold red]WRONG[/]", None: ""}[row.right]
        figures = [_figure(n) for n in (row.seconds, rate)]
        others = [row.against, _figure(row.other_seconds), _figure(row.ratio)]
        table.add_row(row.what, *figures, *others, " ".join(filter(None, (verdict, row.note))))
    Console(width=150).print(table)


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def sizes(text: str) -> list[float]:
    return [float(size) for size in text.split(",")]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Check taskstore on one GPU.")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--params", type=sizes, default="1.1e9,7e9", help="sizes of families")
    parser.add_argument("--elements", type=float, default=2**28, help="weights of a kernel's run")
    parser.add_argument("--minutes", type=float, default=8, help="begin nothing that ends later")
    parser.add_argument("--work", type=Path, help="folder for scratch files")
    parser.add_argument("--json", type=Path, help="file for the figures")
    given = parser.parse_args(argv)
    if is_cuda(given.device) and not torch.cuda.is_available():
        parser.error("torch sees no GPU; --device cpu --params 2e6 --elements 1e5 tries it small")
    if given.work and not given.work.is_dir():
        parser.error(f"--work {given.work} is no folder: make it, or leave --work out")
    rows, device = run(given), name_of(given.device)
    show(rows, f"taskstore {taskstore.__version__}, torch {torch.__version__}, {device}")
    if given.json:
        figures = [asdict(row) | {"ratio": row.ratio} for row in rows]
        given.json.write_text(json.dumps({"device": device, "rows": figures}, indent=2) + "\n")
    return int(any(row.right is False for row in rows))


if __name__ == "__main__":
    sys.exit(main())
