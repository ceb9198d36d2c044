"""Vocabularies that were cut, grew or were padded: common rows are shared, every row comes back."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import taskstore
from taskstore.errors import InputError, ModuleMismatch
from taskstore.merging import MergeOptions, merge
from taskstore.packing.revise import retier
from taskstore.store.verify import verify
from tests.support.families import State, options, same, save, tuned
from tests.support.modules import Named

ROWS, WIDTH = 80, 24


def body(seed: int = 0, name: str = "model.embed_tokens") -> State:
    g = torch.Generator().manual_seed(seed)
    return {
        f"{name}.weight": torch.randn(ROWS, WIDTH, generator=g).bfloat16(),
        f"{name}.bias": torch.randn(ROWS, generator=g).bfloat16(),
        **{f"layers.{i}.weight": torch.randn(16, 16, generator=g).bfloat16() for i in range(4)},
    }


def fitted(state: State, rows: int, dtype: torch.dtype = torch.bfloat16) -> State:
    """Cut to fewer rows, or padded with new ones."""
    g = torch.Generator().manual_seed(rows)
    found = {}
    for name, value in state.items():
        if len(value) == ROWS:
            more = torch.randn(max(0, rows - ROWS), *value.shape[1:], generator=g)
            value = torch.cat([value, more.to(value.dtype)])[:rows].contiguous()
        found[name] = value.to(dtype)
    return found


NAMES = ["model.embed_tokens", "glove.lookup"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("rows", [1, 50, 79, 81, 96])
@pytest.mark.parametrize("tiers", ["mask", "rest", "exact", "mask,rest,exact"])
def test_common_rows_are_shared(rows: int, tiers: str, name: str, tmp_path: Path) -> None:
    """Under any name, whatever a config says: padding is no part of vocab_size."""
    base, config = body(name=name), {"vocab_size": 77}
    own = {"a": fitted(tuned(base, 1), rows), "b": tuned(base, 2)}
    paths = {t: save(tmp_path / t, own[t], config={"vocab_size": rows - 1}) for t in own}
    save(tmp_path / "base", base, config=config)
    taskstore.pack(tmp_path / "base", paths, tmp_path / "s", options(tiers=tiers))
    store = taskstore.open(tmp_path / "s")
    private = {p.name: p.shape[0] for p in store.summary().tasks[0].private}
    more = max(0, rows - ROWS)
    assert private == ({f"{name}.weight": more, f"{name}.bias": more} if more else {})
    for task in own:
        back = store.state_dict(task)
        assert {n: v.shape for n, v in back.items()} == {n: v.shape for n, v in own[task].items()}
        if "exact" in tiers:
            assert all(same(back[n], own[task][n]) for n in back)
            assert load_file(store.unpack(task, tmp_path / f"back-{task}") / "model.safetensors")
    assert verify(store, deep=True).ok


@pytest.mark.parametrize("level", ["speed", "archive"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_cut_in_another_dtype_and_packed_again(
    dtype: torch.dtype, level: str, tmp_path: Path
) -> None:
    base = body()
    own = fitted(tuned(base, 1), 50, dtype)
    save(tmp_path / "base", base), save(tmp_path / "a", own)
    chosen = options(tiers="rest,exact", level=level)
    taskstore.pack(tmp_path / "base", {"a": tmp_path / "a"}, tmp_path / "s", chosen)
    retier(taskstore.open(tmp_path / "s"), options(tiers="mask,exact"), tmp_path / "t")
    back = taskstore.open(tmp_path / "t").state_dict("a")
    assert all(same(back[n], own[n]) for n in own)


@pytest.mark.parametrize("donor", [None, "a", "b"])
def test_merges(donor: str | None, tmp_path: Path) -> None:
    base = body()
    own = {"a": fitted(tuned(base, 1), 50), "b": fitted(tuned(base, 2), 96)}
    paths = {t: save(tmp_path / t, own[t]) for t in own}
    save(tmp_path / "base", base)
    choice = MergeOptions("average", tokenizer_from=donor, jobs=1)
    report = merge(tmp_path / "base", paths, tmp_path / "m", choice)
    merged = load_file(tmp_path / "m" / "model.safetensors")["model.embed_tokens.weight"]
    assert len(merged) == {None: ROWS, "a": 50, "b": 96}[donor]
    name = "model.embed_tokens.weight"
    half = (own["a"][name][:50].float() + own["b"][name][:50].float()) / 2
    assert torch.allclose(merged[:50].float(), half, atol=0.02)
    if donor != "a":
        assert "30 of the base's 80 rows count as unchanged" in report.notes[f"{name} of a"]


def test_rows_of_another_start_are_no_vocabulary(tmp_path: Path) -> None:
    base, other = body(name="head"), body(7, name="head")
    own = {**tuned(base, 1), "head.weight": other["head.weight"][:50].contiguous()}
    save(tmp_path / "base", base), save(tmp_path / "a", own)
    with pytest.raises(InputError, match="no vocabulary"):
        taskstore.pack(tmp_path / "base", {"a": tmp_path / "a"}, tmp_path / "s", options())


def test_a_live_module_does_not_take_a_cut_one(tmp_path: Path) -> None:
    base = body()
    own = fitted(tuned(base, 1), 50)
    save(tmp_path / "base", base), save(tmp_path / "a", own)
    taskstore.pack(tmp_path / "base", {"a": tmp_path / "a"}, tmp_path / "s", options())
    store = taskstore.open(tmp_path / "s")
    with pytest.raises(ModuleMismatch, match="was cut"):
        taskstore.attach(Named(store.state_dict("a")), store)
