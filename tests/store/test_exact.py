"""Archives: every fine-tune bit for bit, coded against the base alone."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

import taskstore
from taskstore.errors import FormatError, InputError
from taskstore.store.verify import verify
from tests.support import families, forge
from tests.support.broken import refused
from tests.support.evaluators import run
from tests.support.families import State, options, same
from tests.support.forge import Document
from tests.support.modules import Named, holds

W = "layers.0.attn.weight"
DTYPES = [torch.bfloat16, torch.float16, torch.float32]


def archive(root: Path, base: State, tasks: dict[str, State], **changes: object) -> taskstore.Store:
    family = families.Family(root, base, tasks)
    target = root / "store"
    taskstore.pack(family.base_path, family.paths, target, options(tiers="exact", **changes))
    return taskstore.open(target)


def is_exact(store: taskstore.Store, tasks: dict[str, State]) -> bool:
    return all(
        sorted(rebuilt) == sorted(state) and all(same(rebuilt[name], state[name]) for name in state)
        for task, state in tasks.items()
        for rebuilt in [store.state_dict(task)]
    )


@pytest.fixture(scope="module")
def exact(small: families.Family, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("exact") / "store"
    taskstore.pack(small.base_path, small.paths, target, options(tiers="exact"))
    return target


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_bit_comes_back(dtype: torch.dtype, tmp_path: Path) -> None:
    base = families.random_state(0, dtype)
    tasks = {name: families.tuned(base, i) for i, name in enumerate(("one", "two"))}
    tasks["two"]["norm.weight"] = base["norm.weight"].clone()  # untouched
    tasks["one"][W][0, :4] = torch.tensor([float("nan"), float("inf"), -0.0, 3e38]).to(dtype)
    store = archive(tmp_path, base, tasks)
    assert store.manifest.version == 4
    assert all(t.multitask is None for t in store.manifest.tensors.values())
    assert is_exact(store, tasks)
    assert verify(store, deep=True).ok
    folder = store.unpack("one", tmp_path / "out")
    original = tmp_path / "one"
    assert (folder / "own.txt").exists() == (original / "own.txt").exists()
    back = load_file(folder / "model.safetensors")
    assert all(same(back[name], value) for name, value in tasks["one"].items())


def test_tensors_of_every_kind(tmp_path: Path) -> None:
    """Grown vocabularies, tied and private tensors, integers, another dtype, missing ones."""
    base = families.random_state(0)
    base["lm_head.weight"] = base["embed_tokens.weight"].clone()
    base["ids"] = torch.arange(9)
    tasks = {name: families.tuned(base, i) for i, name in enumerate(("one", "two"))}
    rows = torch.full((2, 16), 0.5, dtype=torch.bfloat16)
    for state in tasks.values():
        state["lm_head.weight"] = state["embed_tokens.weight"].clone()
    for key in ("embed_tokens.weight", "lm_head.weight"):
        tasks["two"][key] = torch.cat([tasks["two"][key], rows])
    tasks["two"]["head.weight"] = torch.ones(3, 10)
    tasks["two"]["ids"] = torch.arange(9) + 1
    tasks["one"][W] = tasks["one"][W].float()
    del tasks["one"]["norm.weight"]
    store = archive(tmp_path, base, tasks, shard_bytes=700)
    kinds = {n: e.kind for n, e in store.manifest.tasks["two"].tensors.items()}
    assert kinds["embed_tokens.weight"] == "exact"
    assert kinds["lm_head.weight"] == "alias"
    assert store.manifest.tasks["one"].tensors[W].dtype == "F32"
    assert is_exact(store, tasks)
    assert same(store.state_dict(None)["ids"], base["ids"])


@given(
    st.sampled_from(DTYPES),
    st.lists(st.lists(st.integers(0, 40), max_size=3).map(tuple), min_size=1, max_size=4),
    st.integers(1, 3),
)
def test_round_trip_of_any_shapes(
    tmp_path_factory: pytest.TempPathFactory,
    dtype: torch.dtype,
    shapes: list[tuple[int, ...]],
    tasks: int,
) -> None:
    root = tmp_path_factory.mktemp("shapes")
    named: dict[str, tuple[int, ...]] = {"w": (5,)} | {f"t{i}": s for i, s in enumerate(shapes)}
    family = families.family(root, tasks, dtype, named)
    taskstore.pack(
        family.base_path, family.paths, root / "store", options(tiers="exact", chunk=128)
    )
    assert is_exact(taskstore.open(root / "store"), family.tasks)
    shutil.rmtree(root)


def test_a_referenced_base(small: families.Family, tmp_path: Path) -> None:
    chosen = options(tiers="exact", base="reference")
    taskstore.pack(small.base_path, small.paths, tmp_path / "s", chosen)
    assert is_exact(taskstore.open(tmp_path / "s"), small.tasks)


def test_equal_input_gives_equal_bytes(small: families.Family, tmp_path: Path) -> None:
    for name, jobs in (("a", 1), ("b", 3)):
        taskstore.pack(
            small.base_path, small.paths, tmp_path / name, options(tiers="exact", jobs=jobs)
        )
    for path in sorted((tmp_path / "a").rglob("*")):
        if path.is_file():
            other = tmp_path / "b" / path.relative_to(tmp_path / "a")
            assert path.read_bytes() == other.read_bytes(), path


def test_it_swaps_too(exact: Path, small: families.Family) -> None:
    """Nothing is shared between exact tasks, so each is held whole, and memory() says so."""
    store = taskstore.open(exact)
    module = Named(small.tasks["beta"])
    with taskstore.attach(module, store) as attached:
        assert attached.memory().delta == 0
        size = sum(value.numel() * 2 for value in small.base.values())
        assert attached.memory().values >= 4 * size - 64
        for task in ("alpha", None, "gamma"):
            attached.swap(task)
            assert holds(module, small.tasks[task] if task else small.base)


def test_the_commands(small: families.Family, packed: Path, tmp_path: Path) -> None:
    store = tmp_path / "s"
    models = [f"{name}={path}" for name, path in small.paths.items()]
    code, out, err = run("pack", small.base_path, *models, "-o", store, "--tiers", "exact")
    assert code == 0, err
    assert "alpha  exact " in out and "masks" not in out
    out = run("info", store)[1]
    assert "exact tensors" in out and "fine-tunes bit for bit" in out and "masks" not in out
    found = json.loads(run("info", store, "--json")[1])
    assert found["exact_bytes"] > 0
    assert found["masks_bytes"] == found["multitask_bytes"] == 0
    assert found["store_bytes"] == sum(p.stat().st_size for p in store.rglob("*") if p.is_file())
    assert run("unpack", store, "beta", "--exact", "-o", tmp_path / "m")[0] == 0
    assert run("unpack", store, "--all", "--exact", "-o", tmp_path / "all")[0] == 0
    ours, theirs = tmp_path / "m", small.paths["beta"]
    name = "model.safetensors"
    assert (ours / name).read_bytes() == (theirs / name).read_bytes()
    code, _, err = run("unpack", packed, "beta", "--exact", "-o", tmp_path / "no")
    assert code == 1
    assert "task 'beta' is not exact, its best tier is 'mask'" in err
    assert not (tmp_path / "no").exists()
    card = (store / "README.md").read_text()
    assert "every fine-tune comes back bit for bit" in card
    assert "| task | fidelity | score | exact | private tensors |" in card


def test_options_that_make_no_sense() -> None:
    with pytest.raises(InputError, match="is none of auto, mask, rest, exact"):
        options(tiers="all")


# What a reader refuses


def entry(d: Document, name: str = W) -> Document:
    found: Document = d["tasks"]["alpha"]["tensors"][name]
    return found


CASES: dict[str, tuple[Callable[[Document], object], str]] = {
    "an exact tensor in version 1": (lambda d: d.update(version=1), "in a store of version 1"),
    "of an alias": (
        lambda d: d["tensors"][W].update(alias="norm.weight"), "alias of something else",
    ),
    "with an integer": (lambda d: entry(d).update(dtype="I16"), "cannot be cast to 'I16'"),
    "with a mask's ones": (lambda d: entry(d).update(ones=3), "of kind 'exact' and has 'ones'"),
    "that shrank otherwise": (lambda d: entry(d).update(shape=[33, 3]), "grew from"),
    "of nothing in the base": (lambda d: d["tensors"].pop(W), "is not in the base"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_manifests_that_break_a_must(name: str, exact: Path, tmp_path: Path) -> None:
    store = Path(shutil.copytree(exact, tmp_path / "store"))
    change, message = CASES[name]
    forge.edit(store, change)
    with pytest.raises(FormatError, match=message):
        taskstore.open(store)


def test_a_dtype_that_is_never_masked(tmp_path: Path) -> None:
    base = {**families.random_state(0), "ids": torch.arange(9)}
    tasks = {"alpha": {**families.tuned(base, 1), "ids": torch.arange(9)}}
    archive(tmp_path, base, tasks)
    forge.edit(tmp_path / "store", lambda d: entry(d, "ids").update(kind="exact", dtype="F32"))
    with pytest.raises(FormatError, match="'ids' cannot be cast to 'F32'"):
        taskstore.open(tmp_path / "store")


EXACT = "tasks/alpha/exact.safetensors"


@pytest.mark.parametrize("at", ["class", "escapes", "table"])
def test_sections_that_break_a_must(at: str, exact: Path, tmp_path: Path) -> None:
    """A class of another size than the base says, escapes of another number, a stream too long."""
    store = Path(shutil.copytree(exact, tmp_path / "store"))
    raw = bytearray(forge.sections(store, EXACT)["norm.weight"])  # one chunk of 16 elements
    lengths = [int.from_bytes(raw[4 * i : 4 * i + 4], "little") for i in range(18)]
    full = next(i for i, length in enumerate(lengths[:16]) if length)
    if at == "class":
        lengths[full] -= 1
    elif at == "escapes":
        lengths[16] += 1
    else:
        lengths[full] += 100
    payload = bytes(sum(lengths)) if at == "table" else bytes(raw[72 : 72 + sum(lengths)])
    forge.put_section(store, EXACT, "norm.weight", forge.section(lengths, payload))
    refused(store, "norm.weight")
