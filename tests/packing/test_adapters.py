"""A task that came as an adapter keeps it: both the merged model and the adapter come back."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import taskstore
from taskstore.errors import ChecksumMismatch, FormatError, InputError
from taskstore.models import open_checkpoint
from taskstore.native import products
from taskstore.packing.revise import add
from taskstore.store.verify import verify
from tests.support import adapters, forge
from tests.support.broken import refused
from tests.support.families import options
from tests.support.forge import Document

FILE = "tasks/alpha/adapter.safetensors"
Q = "model.layers.0.q_proj.weight"


def packed(root: Path, kind: str, dtype: torch.dtype = torch.bfloat16, **how: object) -> Path:
    """A store of a base and the task alpha."""
    base, adapter = adapters.base(root, dtype), adapters.save(root / "adapter", kind)
    taskstore.pack(base, {"alpha": adapter}, root / "store", options(tiers="exact", **how))
    return root / "store"


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_store_of_mixed_tiers_keeps_it_too(tmp_path: Path) -> None:
    """A full fine-tune has a rest, and the adapter, which is exact, its own tensors."""
    base = adapters.base(tmp_path, torch.bfloat16)
    adapter = adapters.save(tmp_path / "adapter", next(iter(adapters.KINDS)))
    tuned = shutil.copytree(base, tmp_path / "tuned")
    state = load_file(base / "model.safetensors")
    save_file(
        {n: w * 1.01 for n, w in state.items()}, tuned / "model.safetensors", {"format": "pt"}
    )
    how = options(tiers="rest", own_tiers={"alpha": "exact"})
    taskstore.pack(base, {"alpha": adapter, "beta": tuned}, tmp_path / "store", how)
    store = taskstore.open(tmp_path / "store")
    assert verify(store, deep=True).problems == []
    assert store.manifest.tasks["alpha"].adapter is not None
    assert store.tiers("beta") == ["rest"]
    store.unpack("alpha", tmp_path / "out", adapter=True)
    assert files(tmp_path / "out") == files(tmp_path / "adapter")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("kind", adapters.KINDS)
def test_both_come_back(kind: str, dtype: torch.dtype, tmp_path: Path) -> None:
    """The merged model is what the reader of adapters computes, in chunks that cut rows."""
    store = taskstore.open(packed(tmp_path, kind, dtype))
    assert verify(store, deep=True).problems == []
    base = open_checkpoint(tmp_path / "base")
    merged = open_checkpoint(tmp_path / "adapter", "alpha", base)
    state = store.state_dict("alpha")
    assert state.keys() == merged.tensors.keys()
    for name, info in merged.tensors.items():
        raw = state[name].contiguous().view(torch.uint8).numpy().tobytes()
        assert raw == merged.read(name, 0, info.numel).tobytes(), name
    merged.close()
    base.close()
    store.unpack("alpha", tmp_path / "out", adapter=True)
    assert files(tmp_path / "out") == files(tmp_path / "adapter")
    own = (tmp_path / "adapter" / "adapter_model.safetensors").stat().st_size
    assert (
        store.manifest.files[FILE].bytes <= own + 512
    )  # tables and padding of few bytes per tensor
    assert not {"exact", "private"} & {Path(p).stem for p in store.manifest.files}


def test_the_adapter_comes_back_over_itself_and_without_its_base(tmp_path: Path) -> None:
    path = packed(tmp_path, "lora", base="reference")
    (tmp_path / "base").rename(tmp_path / "moved")
    for _ in range(2):
        taskstore.open(path).unpack("alpha", tmp_path / "out", adapter=True, overwrite=True)
    assert files(tmp_path / "out") == files(tmp_path / "adapter")


def test_an_adapter_in_a_pickle_comes_back_as_tensors(tmp_path: Path) -> None:
    adapter = adapters.save(tmp_path / "adapter", "lora")
    file = adapter / "adapter_model.safetensors"
    state = load_file(file)
    torch.save(state, file.with_suffix(".bin"))
    file.unlink()
    base = adapters.base(tmp_path, torch.bfloat16)
    taskstore.pack(base, {"alpha": adapter}, tmp_path / "store", options(tiers="exact"))
    store = taskstore.open(tmp_path / "store")
    assert verify(store, deep=True).ok
    store.unpack("alpha", tmp_path / "out", adapter=True)
    found = load_file(tmp_path / "out" / "adapter_model.safetensors")
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], state[name]) for name in state)


def test_it_is_added_and_copied(tmp_path: Path) -> None:
    path = packed(tmp_path, "lora")
    other = adapters.save(tmp_path / "other", "dora", seed=2)
    add(path, {"beta": other})
    copy = taskstore.copy(path, ["beta"], tmp_path / "copy")
    assert verify(copy, deep=True).ok and verify(path, deep=True).ok
    copy.unpack("beta", tmp_path / "out", adapter=True)
    assert files(tmp_path / "out") == files(other)


def test_other_tiers_and_parents_code_the_merged_model(tmp_path: Path) -> None:
    base = adapters.base(tmp_path, torch.bfloat16)
    one, two = (adapters.save(tmp_path / f"{i}", "lora", seed=i) for i in (1, 2))
    for name, how in (("rest", {"tiers": "rest,exact"}), ("parent", {"parents": {"two": "one"}})):
        every = options(**{"tiers": "exact", **how})
        taskstore.pack(base, {"one": one, "two": two}, tmp_path / name, every)
        store = taskstore.open(tmp_path / name)
        assert verify(store, deep=True).ok
        assert all(task.adapter is None for task in store.manifest.tasks.values())
        with pytest.raises(InputError, match="keeps no adapter"):
            store.unpack("one", tmp_path / "out", adapter=True)


def test_a_damaged_adapter_is_told(tmp_path: Path) -> None:
    path = packed(tmp_path, "saved")
    raw = bytearray((path / FILE).read_bytes())
    raw[-80] ^= 1
    forge.replace_file(path, FILE, bytes(raw))
    assert verify(path, deep=True).problems
    with pytest.raises((ChecksumMismatch, FormatError)):
        taskstore.open(path).unpack("alpha", tmp_path / "out", adapter=True)
    assert not (tmp_path / "out").exists()


def test_an_untrained_adapter_is_refused(tmp_path: Path) -> None:
    base, adapter = adapters.base(tmp_path, torch.bfloat16), adapters.save(tmp_path / "a", "lora")
    file = adapter / "adapter_model.safetensors"
    save_file({n: w * (".lora_A." in n) for n, w in load_file(file).items()}, file)
    with pytest.raises(InputError, match="has the base's weights"):
        taskstore.pack(base, {"a": adapter}, tmp_path / "store", options(tiers="exact"))


def made(**changes: object) -> Callable[[Document], object]:
    def change(d: Document) -> None:
        d["tasks"]["alpha"]["tensors"][Q]["made"].update(changes)

    return change


A, B = f"{adapters.Q}.lora_A.weight", f"{adapters.Q}.lora_B.weight"


def own(name: str, **changes: object) -> Callable[[Document], object]:
    return lambda d: d["tasks"]["alpha"]["adapter"]["tensors"][name].update(changes)


def task(**changes: object) -> Callable[[Document], object]:
    return lambda d: d["tasks"]["alpha"].update(changes)


BROKEN: dict[str, tuple[Callable[[Document], object], str]] = {
    "an older version": (lambda d: d.update(version=4), "has an adapter, in a store of version 4"),
    "no adapter": (lambda d: d["tasks"]["alpha"].pop("adapter"), "adapter that is not there"),
    "no tensors": (lambda d: d["tasks"]["alpha"]["adapter"].update(tensors={}), "without tensors"),
    "no made": (lambda d: d["tasks"]["alpha"]["tensors"][Q].pop("made"), "that is not there"),
    "a parent": (task(parent="alpha"), "has an adapter, and a parent"),
    "tiers": (task(tiers=["exact"]), "has an adapter, and a parent, shards or tiers"),
    "another factor": (made(a="nothing"), "no factor of the adapter"),
    "one factor": (
        lambda d: d["tasks"]["alpha"]["tensors"][Q]["made"].pop("b"), "one factor of two"),
    "an integer factor": (own(A, dtype="U16"), "no factor of the adapter"),
    "factors of two ranks": (made(a=B), "of no common rank"),
    "factors the wrong way": (made(turned=True), "is not what factors"),
    "a rank beyond the matrix": (
        lambda d: [own(A, shape=[60, 16])(d), own(B, shape=[24, 60])(d)], "beyond the matrix"),
    "a huge factor": (own(A, shape=[2, 1 << 52]), "too large"),
    "a factor of huge claims": (
        lambda d: [own(A, shape=[2, 1 << 34])(d), own(B, shape=[24, 2])(d)], "is not what factors"),
    "no experts": (made(experts=0), "of no common rank"),
    "an expert that is not there": (made(expert=1), "is not what factors"),
    "rows beyond the product": (made(expert=0, row=1), "is not what factors"),
    "a row without an expert": (made(row=1), "is not what factors"),
    "a vector of another size": (made(vector=A), "is scaled by 32 numbers"),
    "rows without numbers": (made(tokens=A), "rows without their numbers"),
    "rows of another shape": (made(tokens=B, rows=[1, 2]), "rows that it does not have"),
    "a row that is not there": (made(tokens=A, rows=[1, 24]), "rows that it does not have"),
    "a row twice": (made(tokens=A, rows=[1, 1]), "two of one number"),
    "another start": (made(base="lm_head.weight"), "starts as one that is not there"),
    "a saved start of another shape": (made(saved=A), "starts as one that is not there"),
    "two starts": (made(base=Q, saved=A), "starts as one that is not there"),
    "another file": (
        lambda d: d["tasks"]["alpha"]["adapter"]["shards"].update(
            {"model.safetensors": next(iter(d["tasks"]["alpha"]["adapter"]["shards"].values()))}),
        "other weight files"),
    "an asset that is no asset": (
        lambda d: d["tasks"]["alpha"]["adapter"]["assets"].update({"../x": "0" * 64}), "plain rel"),
    "a hash that is not listed": (
        lambda d: d["tasks"]["alpha"]["adapter"]["assets"].update(x="0" * 64), "not listed"),
}  # fmt: skip


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return packed(tmp_path_factory.mktemp("good"), "lora")


@pytest.mark.parametrize("what", BROKEN)
def test_what_breaks_a_rule_is_refused(what: str, good: Path, tmp_path: Path) -> None:
    store = Path(shutil.copytree(good, tmp_path / "store"))
    change, message = BROKEN[what]
    forge.edit(store, change)
    refused(store, message)


def test_sums_have_one_order() -> None:
    """The product is what plain Python adds up, term by term."""
    draw = np.random.default_rng(0)
    left, right = draw.standard_normal((5, 11)), draw.standard_normal((11, 700))
    start = draw.standard_normal(5 * 700)
    found = start.copy()
    products.add_product(left, right, 0, found)
    for row, column in ((0, 0), (2, 511), (3, 512), (4, 699)):
        total = 0.0
        for r in range(11):
            total += float(left[row, r]) * float(right[r, column])
        assert found[row * 700 + column] == start[row * 700 + column] + total
    part = start[123:2000].copy()
    products.add_product(left, right, 123, part)
    assert np.array_equal(part, found[123:2000])


def test_what_has_no_adapter_is_refused(tmp_path: Path, packed: Path) -> None:
    cases: list[tuple[str | None, dict[str, Any], str]] = [
        (None, {}, "the base is no adapter; name a task"),
        ("alpha", {"tier": "mask"}, "goes without `tier` and `shard_bytes`"),
        ("alpha", {"shard_bytes": 100}, "goes without `tier` and `shard_bytes`"),
        ("alpha", {}, "'alpha' keeps no adapter.*unpack it without `adapter`"),
    ]
    for task, words, because in cases:
        with pytest.raises(InputError, match=because):
            taskstore.unpack(packed, task, tmp_path / "out", adapter=True, **words)
    assert not (tmp_path / "out").exists()
