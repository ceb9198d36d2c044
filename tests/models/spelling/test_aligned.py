"""Fine-tunes under other names than their base: matched by a rule, written as they were."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import taskstore
from taskstore.errors import NotOneFamily
from taskstore.merging import MergeOptions, merge
from taskstore.models import open_checkpoint
from taskstore.models.family import open_finetune
from taskstore.packing.revise import retier
from taskstore.store.verify import verify
from tests.support.families import State, options, same, save, tuned

LAYERS = [f"layers.{i}.{n}.weight" for i in range(2) for n in ("attn.q", "mlp.up")]


def body(seed: int = 0) -> State:
    g = torch.Generator().manual_seed(seed)
    return {n: torch.randn(16, 16, generator=g).bfloat16() for n in LAYERS} | {
        "embed_tokens.weight": torch.randn(32, 16, generator=g).bfloat16(),
        "norm.weight": torch.ones(16).bfloat16(),
    }


def renamed(state: State, change: Callable[[str], str]) -> State:
    return {change(name): value for name, value in state.items()}


CHANGES: dict[str, tuple[Callable[[str], str], Callable[[str], str], str]] = {
    "added": (lambda n: n, lambda n: f"model.{n}", "`model.` left out"),
    "gone": (lambda n: f"model.{n}", lambda n: n, "`model.` added"),
    "other start": (lambda n: f"model.{n}", lambda n: f"roberta.{n}", "`roberta.` read as"),
    "compiled": (lambda n: f"model.{n}", lambda n: f"_orig_mod.model.{n}", "`_orig_mod.` left"),
    "compiled base": (lambda n: f"_orig_mod.{n}", lambda n: n, "`_orig_mod.` added"),
    "within": (
        lambda n: f"model.{n}",
        lambda n: f"model.{n}".replace("attn", "_orig_mod.attn"),
        "`_orig_mod.` left out",
    ),
    "twice": (
        lambda n: n,
        lambda n: f"module.module.{n.replace('mlp', '_checkpoint_wrapped_module.mlp')}",
        "`_checkpoint_wrapped_module.` left out, `module.` left out",
    ),
    "peft": (
        lambda n: f"model.{n}",
        lambda n: f"base_model.model.model.{n}",
        "`base_model.model.`",
    ),
    "wrapped and other start": (
        lambda n: f"bert.{n}",
        lambda n: f"module.encoder.{n}",
        "`encoder.` read as `bert.`",
    ),
}


@pytest.mark.parametrize("case", CHANGES)
@pytest.mark.parametrize("tiers", ["rest", "exact"])
def test_names_by_rule(case: str, tiers: str, tmp_path: Path) -> None:
    theirs, ours, said = CHANGES[case]
    base = save(tmp_path / "base", renamed(body(), theirs))
    state = renamed(tuned(body(), 1), ours) | {"head.weight": torch.randn(2, 16)}
    task = save(tmp_path / "a", state)
    report = taskstore.pack(base, {"a": task}, tmp_path / "store", options(tiers=tiers))
    assert any(f"a: names: {said}" in w for w in report.warnings)
    store = taskstore.open(tmp_path / "store")
    assert store.manifest.version == 4
    assert [p.name for p in store.summary().tasks[0].private] == ["head.weight"]
    back = load_file(store.unpack("a", tmp_path / "back") / "model.safetensors")
    assert set(back) == set(state) == set(store.state_dict("a"))
    if tiers == "exact":
        files = [p / "model.safetensors" for p in (task, tmp_path / "back")]
        assert files[0].read_bytes() == files[1].read_bytes()
    assert verify(store, deep=True).ok


def test_equal_names_are_not_recorded(tmp_path: Path) -> None:
    base, task = save(tmp_path / "base", body()), save(tmp_path / "a", tuned(body(), 1))
    report = taskstore.pack(base, {"a": task}, tmp_path / "store", options())
    assert not any("names:" in w for w in report.warnings)
    assert taskstore.open(tmp_path / "store").manifest.tasks["a"].names is None


def test_a_rule_counts_only_for_weights_that_are_alike(tmp_path: Path) -> None:
    base = save(tmp_path / "base", renamed(body(), lambda n: f"model.{n}"))
    other = save(tmp_path / "other", body(seed=7))
    with pytest.raises(NotOneFamily, match=r"`model.` added: the weights are not alike \(cosine"):
        taskstore.pack(base, {"other": other}, tmp_path / "store", options())


def test_names_that_no_rule_matches_are_two_names_in_the_error(tmp_path: Path) -> None:
    base = save(tmp_path / "base", body())
    other = save(tmp_path / "other", {f"x{i}": v for i, v in enumerate(body().values())})
    with pytest.raises(NotOneFamily, match="no name in common, as 'x0' there"):
        taskstore.pack(base, {"other": other}, tmp_path / "store", options())


@pytest.mark.parametrize(
    ("there", "here"),
    [("model.embed_tokens", "lm_head"), ("lm_head", "model.embed_tokens"), ("wte", "lm_head")],
)
def test_a_tied_matrix_under_its_other_name(there: str, here: str, tmp_path: Path) -> None:
    state = body()
    tied = state.pop("embed_tokens.weight")
    base = save(tmp_path / "base", state | {f"{there}.weight": tied})
    own = tuned(state | {f"{here}.weight": tied}, 1)
    task = save(tmp_path / "a", own)
    with_store = taskstore.pack(base, {"a": task}, tmp_path / "store", options(tiers="exact"))
    assert any("the tied" in w for w in with_store.warnings)
    back = taskstore.open(tmp_path / "store").state_dict("a")
    assert all(same(back[name], own[name]) for name in own)


def test_heads_with_one_word_in_common_stay_private(tmp_path: Path) -> None:
    base = save(tmp_path / "base", body() | {"lm_head.weight": torch.randn(32, 16).bfloat16()})
    task = save(tmp_path / "a", tuned(body(), 1) | {"score.weight": torch.randn(2, 16).bfloat16()})
    opened = open_finetune(open_checkpoint(base), task, "a")
    assert not opened.names and "score.weight" in opened.tensors


def test_a_store_is_packed_again_and_merged_with_its_names(tmp_path: Path) -> None:
    base = save(tmp_path / "base", body())
    own = renamed(tuned(body(), 1), lambda n: f"module.{n}")
    tasks = {"a": save(tmp_path / "a", own), "b": save(tmp_path / "b", tuned(body(), 2))}
    taskstore.pack(base, tasks, tmp_path / "store", options(tiers="exact"))
    store = taskstore.open(tmp_path / "store")
    retier(store, options(tiers="mask,exact"), tmp_path / "again")
    again = taskstore.open(tmp_path / "again").state_dict("a")
    assert all(same(again[name], own[name]) for name in own)
    choice = MergeOptions("average", jobs=1)
    report = merge(base, tasks, tmp_path / "merged", choice)
    assert report.notes["names of a"] == "`module.` left out to match the base"
    assert set(load_file(tmp_path / "merged" / "model.safetensors")) == set(body())
