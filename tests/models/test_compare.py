"""Which tensors are masked, private, aliases, or absent; and that each comes back."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import taskstore
from taskstore.errors import InputError
from taskstore.store import Store
from tests.support import families, oracle
from tests.support.families import Family, State, options, random_state, same, tuned

Configs = Mapping[str, dict[str, object]]


def pack(
    root: Path,
    base: State,
    tasks: dict[str, State],
    configs: Configs = MappingProxyType({}),
    **more: object,
) -> Store:
    def saver(folder: Path, state: State, files: dict[str, str]) -> Path:
        return families.save(folder, state, files=files, config=configs.get(folder.name))

    family = Family(root, base, tasks, saver)
    taskstore.pack(family.base_path, family.paths, root / "store", options(**more))
    return taskstore.open(root / "store")


def kinds(store: Store, task: str) -> dict[str, str]:
    return {n: e.kind for n, e in store.manifest.tasks[task].tensors.items()}


def test_private_heads(tmp_path: Path) -> None:
    base = random_state(0)
    tasks = {
        name: {**tuned(base, i), "head.weight": torch.randn(i + 2, 16), "head.bias": torch.ones(2)}
        for i, name in enumerate("ab")
    }
    store = pack(tmp_path, base, tasks)
    for task, state in tasks.items():
        rebuilt = store.state_dict(task)
        assert same(rebuilt["head.weight"], state["head.weight"])
        assert kinds(store, task)["head.weight"] == "private"
        private = next(t for t in store.summary().tasks if t.name == task).private
        assert {p.name: p.reason for p in private}["head.weight"] == "not in the base"


def test_missing_tensors(tmp_path: Path) -> None:
    base = random_state(0)
    tasks = {name: tuned(base, i) for i, name in enumerate("abc")}
    del tasks["a"]["norm.weight"], tasks["b"]["norm.weight"], tasks["b"]["scale"]
    for state in tasks.values():
        del state["layers.0.bias"]
    store = pack(tmp_path, base, tasks)
    assert store.manifest.tensors["layers.0.bias"].multitask is None
    for task, state in tasks.items():
        rebuilt = store.state_dict(task)
        assert sorted(rebuilt) == sorted(state)
        vectors = oracle.task_vectors(base, tasks)
        for name in state:
            merged = oracle.merged_sum(vectors, name)
            want = oracle.rebuild(base[name], vectors[task][name], merged, 0.4)
            assert same(rebuilt[name], want)
    assert all(same(t, base[n]) for n, t in store.state_dict(None).items())


def test_tied_weights_saved_twice(tmp_path: Path) -> None:
    def tie(state: State) -> State:
        return {**state, "lm_head.weight": state["embed_tokens.weight"].clone()}

    base = random_state(0)
    tasks = {name: tie(tuned(base, i)) for i, name in enumerate("ab")}
    store = pack(tmp_path, tie(base), tasks)
    assert store.manifest.tensors["lm_head.weight"].alias == "embed_tokens.weight"
    rebuilt = store.state_dict("a")
    assert rebuilt["lm_head.weight"] is rebuilt["embed_tokens.weight"]
    store.unpack("a", tmp_path / "a-model")
    again = store.state_dict(None)
    assert same(again["lm_head.weight"], base["embed_tokens.weight"])


def test_a_task_that_unties(tmp_path: Path) -> None:
    base = random_state(0)
    base["lm_head.weight"] = base["embed_tokens.weight"].clone()
    tasks = {name: tuned(base, i) for i, name in enumerate("ab")}  # both heads move apart
    store = pack(tmp_path, base, tasks)
    assert store.manifest.tensors["lm_head.weight"].alias is None
    assert kinds(store, "a")["lm_head.weight"] == "mask"


def test_a_task_that_saved_its_tie(tmp_path: Path) -> None:
    base = random_state(0)
    tasks = {name: tuned(base, i) for i, name in enumerate("ab")}
    tasks["a"]["lm_head.weight"] = tasks["a"]["embed_tokens.weight"].clone()
    store = pack(tmp_path, base, tasks)
    assert kinds(store, "a")["lm_head.weight"] == "alias"
    rebuilt = store.state_dict("a")
    assert same(rebuilt["lm_head.weight"], rebuilt["embed_tokens.weight"])


@pytest.mark.parametrize("with_config", [True, False])
def test_a_vocabulary_that_grew(tmp_path: Path, with_config: bool) -> None:
    base = random_state(0)
    tasks = {name: tuned(base, i) for i, name in enumerate("ab")}
    extra = torch.randn(3, 16).to(torch.bfloat16)
    name = "embed_tokens.weight"
    common = tasks["a"][name]
    tasks["a"][name] = torch.cat([common, extra])
    sizes: dict[str, dict[str, object]] = {
        "base": {"vocab_size": 40}, "a": {"vocab_size": 43}, "b": {"vocab_size": 40}
    }  # fmt: skip
    store = pack(tmp_path, base, tasks, sizes if with_config else {})
    entry = store.manifest.tasks["a"].tensors[name]
    assert (entry.kind, entry.shape) == ("mask", [43, 16])
    rebuilt = store.tensor("a", name)
    assert same(rebuilt[40:], extra)
    vectors = oracle.task_vectors(base, {**tasks, "a": {**tasks["a"], name: common}})
    merged = oracle.merged_sum(vectors, name)
    assert same(rebuilt[:40], oracle.rebuild(base[name], vectors["a"][name], merged, 0.4))
    assert store.tensor("b", name).shape == (40, 16)


def test_a_larger_head_is_no_vocabulary(tmp_path: Path) -> None:
    base = {**random_state(0), "classifier.weight": torch.randn(5, 16)}
    tasks = {"a": tuned(base, 0)}
    tasks["a"]["classifier.weight"] = torch.randn(9, 16)
    with pytest.raises(InputError, match=r"a: 1 of .* \(classifier.weight; .*keep_private=True"):
        pack(tmp_path, base, tasks)
    store = pack(tmp_path, base, tasks, keep_private=True)
    entry = store.manifest.tasks["a"].tensors["classifier.weight"]
    assert entry.kind == "private"
    assert entry.reason == "shape [9, 16], [5, 16] in the base"


def test_integer_buffers(tmp_path: Path) -> None:
    base: State = {
        **random_state(0),
        "ids": torch.arange(300),
        "steps": torch.tensor(7, dtype=torch.int32),
        "flags": torch.zeros(9, dtype=torch.bool),
        "none": torch.empty(0, dtype=torch.int64),
    }
    tasks = {name: tuned(base, i) for i, name in enumerate("ab")}
    tasks["b"]["steps"] = torch.tensor(9, dtype=torch.int32)
    store = pack(tmp_path, base, tasks)
    assert kinds(store, "a")["ids"] == "base"
    assert kinds(store, "b")["steps"] == "private"
    for task, state in tasks.items():
        rebuilt = store.state_dict(task)
        for name in ("ids", "steps", "flags", "none"):
            assert same(rebuilt[name], state[name])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_task_of_another_float_dtype(tmp_path: Path, dtype: torch.dtype) -> None:
    base = random_state(0)
    tasks = {"a": tuned(base, 0, dtype=dtype), "b": tuned(base, 1)}
    store = pack(tmp_path, base, tasks)
    vectors = oracle.task_vectors(base, tasks)
    for name, tensor in store.state_dict("a").items():
        merged = oracle.merged_sum(vectors, name)
        want = oracle.rebuild(base[name], vectors["a"][name], merged, 0.4).to(dtype)
        assert same(tensor, want)


def test_a_frozen_tensor_has_an_empty_mask(tmp_path: Path) -> None:
    base = random_state(0)
    tasks = {name: tuned(base, i) for i, name in enumerate("ab")}
    tasks["a"]["norm.weight"] = base["norm.weight"].clone()
    store = pack(tmp_path, base, tasks)
    assert store.manifest.tasks["a"].tensors["norm.weight"].ones == 0
    assert same(store.tensor("a", "norm.weight"), base["norm.weight"])


@given(st.data())
def test_any_mix_of_missing_tied_added_and_cast(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Whatever a task lacks, ties, adds or casts, every tensor comes back as the oracle has it."""
    base = random_state(data.draw(st.integers(0, 9)))
    if data.draw(st.booleans()):
        base["lm_head.weight"] = base["embed_tokens.weight"].clone()
    tasks: dict[str, State] = {}
    for i, name in enumerate("abc"[: data.draw(st.integers(1, 3))]):
        dtype = data.draw(st.sampled_from([None, torch.float32]))
        state = tuned(base, i, dtype=dtype)
        for dropped in data.draw(
            st.sets(st.sampled_from(["norm.weight", "scale", "layers.0.bias"]))
        ):
            del state[dropped]
        if data.draw(st.booleans()):
            state["lm_head.weight"] = state["embed_tokens.weight"].clone()
        if data.draw(st.booleans()):
            state["head.weight"] = torch.randn(3, 4)
        tasks[name] = state
    root = tmp_path_factory.mktemp("mix")
    store = pack(root, base, tasks)
    vectors = oracle.task_vectors(base, tasks)
    assert all(same(tensor, base[name]) for name, tensor in store.state_dict(None).items())
    for task, state in tasks.items():
        rebuilt = store.state_dict(task)
        assert rebuilt.keys() == state.keys()
        for name, tensor in rebuilt.items():
            entry = store.manifest.tasks[task].tensors[name]
            if entry.kind == "private":
                assert same(tensor, state[name])
            elif entry.kind == "alias":
                assert entry.of is not None
                assert same(tensor, rebuilt[entry.of])
                assert same(state[name], state[entry.of])
            else:
                merged = oracle.merged_sum(vectors, name)
                want = oracle.rebuild(base[name], vectors[task][name], merged, 0.4)
                assert same(tensor, want.to(state[name].dtype))
    shutil.rmtree(root)


@pytest.mark.parametrize("keep", [False, True])
def test_holes_of_zero3(keep: bool, tmp_path: Path) -> None:
    """Named, with what mends them; kept where that is asked for."""
    base, own = random_state(0), tuned(random_state(0), 1)
    own["layers.0.attn.weight"] = torch.empty(0, dtype=torch.bfloat16)
    own["norm.weight"] = torch.empty(0, dtype=torch.bfloat16)
    if not keep:
        with pytest.raises(InputError, match=r"a: 2 of 6 tensors have no elements .*zero_to_fp32"):
            pack(tmp_path, base, {"a": own})
        return
    back = pack(tmp_path, base, {"a": own}, keep_private=True).state_dict("a")
    assert back["norm.weight"].numel() == 0
