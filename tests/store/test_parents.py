"""Tasks that are coded against another task: what is packed comes back, through any tree."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import taskstore
from taskstore.errors import FormatError
from taskstore.merging.from_store import merge_store
from taskstore.merging.options import MergeOptions
from taskstore.packing.revise import add, retier
from taskstore.store.verify import verify
from tests.support import ROOT, families, forge
from tests.support.families import State, contents, options, same
from tests.support.modules import Named, holds

W = "layers.1.mlp.weight"
DTYPES = (torch.bfloat16, torch.float16, torch.float32)
CHAIN = {"beta": "alpha", "gamma": "beta"}


def run_of(root: Path, dtype: torch.dtype) -> families.Family:
    """Three checkpoints of one run, each tuned from the one before."""
    state = base = families.random_state(0, dtype)
    tasks = {}
    for i, name in enumerate(("alpha", "beta", "gamma")):
        tasks[name] = state = families.tuned(state, i, 0.001 if i else 0.01)
    return families.Family(root, base, tasks)


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> families.Family:
    return run_of(tmp_path_factory.mktemp("run"), torch.bfloat16)


@pytest.fixture(scope="module")
def chain(family: families.Family, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("chain") / "store"
    taskstore.pack(family.base_path, family.paths, target, options(tiers="exact", parents=CHAIN))
    return target


def comes_back(store: taskstore.Store, tasks: dict[str, State]) -> bool:
    return verify(store, deep=True).problems == [] and all(
        found.keys() == state.keys() and all(same(found[name], state[name]) for name in state)
        for task, state in tasks.items()
        for found in [store.state_dict(task)]
    )


def test_a_chain_comes_back(chain: Path, family: families.Family, tmp_path: Path) -> None:
    store = taskstore.open(chain)
    assert store.manifest.version == 5
    assert [task.parent for task in store.summary().tasks] == [None, "alpha", "beta"]
    assert comes_back(store, family.tasks)
    assert contents(store.unpack("gamma", tmp_path / "out")) == contents(family.paths["gamma"])


def test_a_child_takes_what_changed(chain: Path, family: families.Family, tmp_path: Path) -> None:
    alone = tmp_path / "alone"
    taskstore.pack(family.base_path, family.paths, alone, options(tiers="exact", parent="none"))
    apart = {task.name: task.exact_bytes for task in taskstore.open(alone).summary().tasks}
    found = {task.name: task.exact_bytes for task in taskstore.open(chain).summary().tasks}
    assert taskstore.open(alone).manifest.version == 4
    assert found["alpha"] == apart["alpha"]
    assert found["gamma"] < 0.8 * apart["gamma"]


def test_a_child_is_read_from_the_files_above_it(chain: Path, tmp_path: Path) -> None:
    store = taskstore.open(chain)
    files = store.files_of("beta")
    assert {"tasks/alpha/exact.safetensors", "tasks/beta/exact.safetensors"} <= {*files}
    assert "tasks/gamma/exact.safetensors" not in files
    (chain / "tasks/gamma/exact.safetensors").rename(tmp_path / "away")
    try:
        assert store.unpack("beta", tmp_path / "beta").exists()
    finally:
        (tmp_path / "away").rename(chain / "tasks/gamma/exact.safetensors")


SHAPES = {"layers.0.attn.weight": (9, 31), "embed_tokens.weight": (20, 16), "scale": ()}
trees = st.integers(2, 5).flatmap(
    lambda n: st.tuples(*(st.none() | st.integers(0, i - 1) for i in range(1, n)))
)


@settings(max_examples=12, deadline=None)
@given(
    tree=trees,
    seed=st.integers(0, 2**16),
    tiers=st.sampled_from(["exact", "rest,exact", "mask,exact"]),
    level=st.sampled_from(["speed", "archive"]),
    mixed=st.booleans(),
)
def test_any_forest_comes_back(
    tree: tuple[int | None, ...], seed: int, tiers: str, level: str, mixed: bool
) -> None:
    """Of several dtypes, with grown and cut vocabularies and tensors that some lack."""
    base = families.random_state(seed, shapes=SHAPES)
    names = [f"t{i}" for i in range(len(tree) + 1)]
    tasks = {}
    for i, name in enumerate(names):
        dtype = DTYPES[(seed + i) % 3] if mixed else None
        state = families.tuned(base, seed + i, dtype=dtype)
        rows = (20, 22, 17)[(seed // 3 + i) % 3]
        table = state["embed_tokens.weight"]
        state["embed_tokens.weight"] = torch.cat([table, table[:2] * 3])[:rows]
        if (seed + i) % 5 == 0:
            state["head.weight"] = state.pop("scale").reshape(1, 1)
        tasks[name] = state
    parents = {names[i]: names[p] for i, p in enumerate(tree, 1) if p is not None}
    with tempfile.TemporaryDirectory() as folder:
        made = families.Family(Path(folder), base, tasks)
        how = options(tiers=tiers, level=level, parent="none", parents=parents)
        taskstore.pack(made.base_path, made.paths, Path(folder, "store"), how)
        store = taskstore.open(Path(folder, "store"))
        found = {task.name: task.parent for task in store.summary().tasks if task.parent}
        assert found == parents
        assert comes_back(store, tasks)


def test_lower_tiers_do_not_see_the_parent(family: families.Family, tmp_path: Path) -> None:
    for name, changes in (("apart", {"parent": "none"}), ("chain", {"parents": CHAIN})):
        how = options(tiers="rest,exact", **changes)
        taskstore.pack(family.base_path, family.paths, tmp_path / name, how)
    apart, chained = (taskstore.open(tmp_path / name) for name in ("apart", "chain"))
    rest = "tasks/gamma/rest.safetensors"
    assert (apart.path / rest).read_bytes() == (chained.path / rest).read_bytes()
    module = Named(chained.state_dict(None))
    with taskstore.attach(module, chained, tier="exact") as attached:
        attached.swap("gamma")
        assert holds(module, family.tasks["gamma"])


@pytest.mark.parametrize("forged", ["alpha", "beta"])
def test_a_forged_parent_is_found_in_its_children(forged: str, tmp_path: Path) -> None:
    """Whatever is made of them; and the file of the parent is named.

    In float32, whose codec decodes whatever it is given.
    """
    family, path = run_of(tmp_path / "run", torch.float32), tmp_path / "store"
    taskstore.pack(family.base_path, family.paths, path, options(tiers="exact", parents=CHAIN))
    file = f"tasks/{forged}/exact.safetensors"
    forge.swap_chunks(path, file, W, 4)
    store = taskstore.open(path)
    before = contents(path)
    makers: dict[str, Callable[[], object]] = {
        "state_dict": lambda: store.state_dict("gamma"),
        "unpack": lambda: store.unpack("gamma", tmp_path / "out"),
        "merge": lambda: merge_store(store, tmp_path / "out", MergeOptions("average")),
        "retier": lambda: retier(store, options(tiers="rest"), tmp_path / "out"),
    }
    for make in makers.values():
        with pytest.raises(FormatError) as caught:
            make()
        assert file in str(caught.value)
        assert not (tmp_path / "out").exists()
    problems = verify(store, deep=True).problems
    below = ("alpha", "beta", "gamma")[("alpha", "beta").index(forged) :]
    assert len(problems) == len(below)
    assert all(
        file in line and f"task {t!r}" in line for t, line in zip(below, problems, strict=True)
    )
    assert contents(path) == before


def test_a_store_of_chains_is_packed_again(
    chain: Path, family: families.Family, tmp_path: Path
) -> None:
    """Out of itself, with another fine-tune."""
    path = Path(shutil.copytree(chain, tmp_path / "store"))
    more = families.tuned(family.tasks["gamma"], 7, 0.001)
    add(taskstore.open(path), {"delta": families.save(tmp_path / "delta", more)})
    assert comes_back(taskstore.open(path), {**family.tasks, "delta": more})


def test_a_file_is_open_once_for_all_who_read_it(family: families.Family, tmp_path: Path) -> None:
    """Tasks in chains read one another's files; a store of them needs no more than its own."""
    names = [f"t{i:02}" for i in range(16)]
    paths = {name: family.paths[("alpha", "beta", "gamma")[i % 3]] for i, name in enumerate(names)}
    parents = {names[i]: names[i - 1] for i in range(16) if i % 8}
    how = options(tiers="exact", parent="none", parents=parents)
    taskstore.pack(family.base_path, paths, tmp_path / "s", how)
    store = taskstore.open(tmp_path / "s")
    files = len(store.manifest.files)
    assert sum(len(store.files_of(name)) for name in names) > files + 40
    words = [sys.executable, "-m", "tests.support.few_files", str(tmp_path), str(files)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert contents(tmp_path / "all" / "t15") == contents(paths["t15"])
