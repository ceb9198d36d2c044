"""Which tasks are served, from the manifest alone."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest
from taskstore_serving.checks.choice import Choice, base_names, choose, dtype

import taskstore
from taskstore.errors import InputError, SwapError, UnknownTask
from taskstore.store import Store
from tests.support import families


def chosen(
    store: Store, tasks: Sequence[str] = (), default: str = "", *, skip: bool = False
) -> Choice:
    return choose(store, tasks, residual=0, default=default, skip=skip)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A family in which some tasks have tensors of their own."""
    folder = tmp_path_factory.mktemp("mixed")
    base, tasks = families.rich_states()
    family = families.Family(folder, base, tasks)
    taskstore.pack(family.base_path, family.paths, folder / "store", families.options())
    return taskstore.open(folder / "store")


def test_all_tasks_or_those_that_are_named(packed: Path) -> None:
    store = taskstore.open(packed)
    assert chosen(store).tiers == {"alpha": "mask", "beta": "mask", "gamma": "mask"}
    assert list(chosen(store, ["gamma", "alpha", "gamma"]).tiers) == ["gamma", "alpha"]


def test_names_that_are_not_there(packed: Path) -> None:
    store = taskstore.open(packed)
    with pytest.raises(UnknownTask, match="did you mean 'alpha'"):
        chosen(store, ["alpah"])
    with pytest.raises(UnknownTask, match="did you mean 'beta'"):
        chosen(store, default="betta")
    with pytest.raises(InputError, match="'beta' is not served: it is not among --tasks"):
        chosen(store, ["alpha"], default="beta")


def test_a_config_that_computes_something_else_is_found_before_the_engine_starts(
    small: families.Family, tmp_path: Path
) -> None:
    paths = {}
    rope = {"base": {"rope_theta": 1e4, "rope_type": "default"}, "alpha": {"rope_theta": 1e4}}
    for name, path in {"base": small.base_path, **small.paths}.items():
        paths[name] = shutil.copytree(path, tmp_path / name)
        config = {"model_type": "llama", "rope_parameters": rope.get(name, {"rope_theta": 5e3})}
        (paths[name] / "config.json").write_text(json.dumps(config))
    base = paths.pop("base")
    taskstore.pack(base, paths, tmp_path / "store", families.options())
    store = taskstore.open(tmp_path / "store")
    assert list(chosen(store, ["alpha"]).tiers) == [
        "alpha"
    ]  # what is left out is vLLM's to fill in
    with pytest.raises(SwapError, match=r"'beta' .* rope_parameters.rope_theta=5000.0, the base's"):
        chosen(store)
    assert list(chosen(store, skip=True).left_out) == ["beta", "gamma"]


def test_tasks_with_tensors_of_their_own_are_refused_or_left_out(mixed: Store) -> None:
    with pytest.raises(SwapError, match=r"task 'three' .*'empty'.* --skip-unservable"):
        chosen(mixed)
    found = chosen(mixed, skip=True)
    assert found.tiers
    assert {"two", "three"} <= set(found.left_out)
    assert not set(found.tiers) & set(found.left_out)
    with pytest.raises(InputError, match="no task of this store can be served: task 'two'"):
        chosen(mixed, ["two", "three"], skip=True)
    with pytest.raises(InputError, match="--default-task 'two' is not served: task 'two'"):
        chosen(mixed, default="two", skip=True)


def test_names_of_the_base(packed: Path) -> None:
    store = taskstore.open(packed)
    own = store.manifest.base.name
    assert base_names(store, (), ("alpha",)) == (own,)
    assert base_names(store, (), (own,)) == (f"{own}-base",)
    hash_of = {"name": "f00d", "source": "org/model", "revision": "f00d"}
    base = msgspec.structs.replace(store.manifest.base, **hash_of)
    store.manifest = msgspec.structs.replace(store.manifest, base=base)
    assert base_names(store, (), ()) == ("model",)
    assert base_names(store, ("x", "y", "x"), ("alpha",)) == ("x", "y")
    with pytest.raises(InputError, match="'alpha' names the base, but is a task's name"):
        base_names(store, ("alpha",), ("alpha",))


def test_the_dtype_of_most_weights(packed: Path) -> None:
    assert dtype(taskstore.open(packed).manifest) == "bfloat16"
