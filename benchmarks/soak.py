"""Readers beside a writer for a while: no error, no wrong byte; prints how often each did its work.

    python benchmarks/soak.py --seconds 60 --serve

One process adds, replaces, renames and removes tasks of a small archive, changes its tiers and
collects; others unpack tasks of it, and swap them into a live module. What comes out must be one of
the fine-tunes, bit for bit. With `--serve` a server follows a store of the example's family, which
another process changes: its own tasks must give their right answers, and those that come and go an
answer of the weights that they have.
"""

from __future__ import annotations

import multiprocessing
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import click
import torch
from blake3 import blake3
from rich.console import Console
from rich.table import Table
from safetensors.torch import load_file

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))

from numerals import TASKS

import taskstore
from benchmarks.common.sides import HERE
from benchmarks.common.synthetic import task_names, write_family
from benchmarks.serving.asked import asked, follows, known, serving
from taskstore import AddOptions, PackOptions
from taskstore.locations.locks import waiting
from taskstore.packing.changes.commit import collect
from taskstore.packing.changes.tasks import rename
from taskstore.packing.only_writer import only_writer
from taskstore.packing.revise import retier
from taskstore.store.verify import verify

MODELS, MOST = 4, 8
FAMILY = HERE.parent / "examples" / "family"
NUMBERS = range(1, 4000, 173)
SPAWN = multiprocessing.get_context("spawn")
Models = Mapping[str, Path]
State = Mapping[str, torch.Tensor]


def digest(state: State) -> str:
    found = blake3()
    for name in sorted(state):
        found.update(state[name].contiguous().view(torch.uint8).numpy())
    return found.hexdigest()


def unpacked(path: Path, models: Models, out: Path, seconds: float) -> Counter[str]:
    """Unpack tasks as they come; every one must be a fine-tune."""
    rng, done, known = random.Random(1), Counter[str](), originals(models)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        store = taskstore.open(path)
        shutil.rmtree(out, ignore_errors=True)  # a task that is gone is not overwritten
        store.unpack(rng.choice(store.tasks), out, jobs=1)
        assert digest(load_file(out / "model.safetensors")) in known
        store.close()
        done["unpack"] += 1
    return done


def swapped(path: Path, models: Models, base: Path, seconds: float) -> Counter[str]:
    """Attach a live module, swap some tasks into it, and begin again."""
    rng, done, known = random.Random(2), Counter[str](), originals(models)
    module = Module(load_file(base / "model.safetensors"))
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        store = taskstore.open(path)
        with taskstore.attach(module, store, tier="exact", jobs=1) as attached:
            for task in rng.sample(store.tasks, min(3, len(store.tasks))):
                attached.swap(task)
                assert digest(module.state_dict()) in known
                done["swap"] += 1
            attached.swap(None)
        store.close()
        done["attach"] += 1
    return done


class Module(torch.nn.Module):
    """The tensors of a model under their names, without a computation."""

    def __init__(self, state: State) -> None:
        super().__init__()
        for name, value in state.items():
            self._place(name).register_buffer(name.rpartition(".")[2], value.clone())

    def _place(self, name: str) -> torch.nn.Module:
        here: torch.nn.Module = self
        for part in name.split(".")[:-1]:
            if part not in dict(here.named_children()):
                here.add_module(part, torch.nn.Module())
            here = here.get_submodule(part)
        return here


def originals(models: Models) -> set[str]:
    return {digest(load_file(path / "model.safetensors")) for path in models.values()}


def changed(
    path: Path, models: Models, seconds: float, kept: frozenset[str] = frozenset()
) -> Counter[str]:
    """Change the store in turn; another writer is waited for. Tasks and tiers of `kept` stay."""
    rng, done = random.Random(0), Counter[str]()
    how, until = AddOptions(max_error=None, jobs=1), time.monotonic() + seconds

    def collected() -> object:
        with only_writer(store := taskstore.open(path)):
            collect(path.resolve())
        return store

    def retiered() -> object:
        tiers = rng.choice(("exact", "rest,exact"))
        return retier(taskstore.open(path), PackOptions(tiers=tiers, jobs=1))

    while time.monotonic() < until:
        tasks, new = taskstore.open(path).tasks, f"t{rng.randrange(10**9)}"
        free = [task for task in tasks if task not in kept]
        one, model = rng.choice(free or tasks), rng.choice([*models.values()])
        ways: dict[str, Callable[[], object]] = {
            "add": partial(taskstore.add, path, {new: model}, how),
            "replace": partial(taskstore.replace, path, {one: model}, how),
            "rename": partial(rename, path, one, new),
            "remove": partial(taskstore.remove, path, [one]),
            "gc": collected,
            "retier": retiered,
        }
        allowed = [way for way in ways if not (way == "remove" and len(tasks) < 3)]
        if kept:
            allowed = ["add", "gc", *(("replace", "rename", "remove") if free else ())]
        what = "remove" if len(tasks) >= MOST else rng.choice(allowed)
        with waiting(20):
            ways[what]()
        done[what] += 1
    return done


def beside_server(root: Path, seconds: float) -> Counter[str]:
    """Ask a server that follows a store, while that is changed."""
    models = {task: FAMILY / task for task in TASKS}
    options = PackOptions(tiers="rest", residual=8.0, jobs=1)
    taskstore.pack(FAMILY / "base", models, root / "served", options)
    with serving(root / "served", root / "log") as url:
        numbers = known(url, TASKS, NUMBERS)
        assert 2 * len(numbers) > len(NUMBERS), numbers
        with ProcessPoolExecutor(3, mp_context=SPAWN) as pool:
            every = [
                pool.submit(changed, root / "served", models, seconds, frozenset(models)),
                pool.submit(asked, url, TASKS, numbers, seconds),
                pool.submit(asked, url, TASKS, numbers[::-1], seconds),
            ]
            done = sum((one.result() for one in every), Counter[str]())
        follows(url, root / "served")
    whole(root / "served")
    return Counter({f"served store: {what}": times for what, times in done.items()})


def beside_readers(root: Path, params: float, seconds: float) -> Counter[str]:
    """Unpack and swap tasks of a store, while that is changed."""
    write_family(root / "family", params=params, tasks=MODELS, seed=0, dtype="bf16")
    base = root / "family" / "base"
    models = {name: root / "family" / name for name in task_names(MODELS)}
    taskstore.pack(base, models, root / "store", PackOptions(tiers="exact", jobs=1))
    with ProcessPoolExecutor(4, mp_context=SPAWN) as pool:
        every = [
            pool.submit(changed, root / "store", models, seconds),
            pool.submit(unpacked, root / "store", models, root / "out0", seconds),
            pool.submit(unpacked, root / "store", models, root / "out1", seconds),
            pool.submit(swapped, root / "store", models, base, seconds),
        ]
        done = sum((one.result() for one in every), Counter[str]())
    whole(root / "store")
    return done


def whole(path: Path) -> None:
    report = verify(taskstore.open(path), deep=True)
    assert report.ok, report.problems
    left = sorted(p.name for p in path.parent.iterdir() if p.name.startswith("."))
    assert not left, left


@click.command()
@click.option("--seconds", default=60.0, show_default=True)
@click.option("--params", type=float, default=2e6, show_default=True)
@click.option("--serve", is_flag=True, help="Ask a server of another store, too; it needs vLLM.")
@click.option("--work", type=click.Path(path_type=Path), default=Path("build"))
def main(seconds: float, params: float, serve: bool, work: Path) -> None:
    work.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=work, prefix="soak-") as folder:
        done = beside_readers(Path(folder).resolve(), params, seconds)
        if serve:
            done += beside_server(Path(folder).resolve(), seconds)
    table = Table("what", "times")
    for what, times in sorted(done.items()):
        table.add_row(what, str(times))
    Console(width=60).print(table)


if __name__ == "__main__":
    main()
