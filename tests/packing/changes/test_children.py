"""Children of a task that goes or changes are coded anew first; none is lost, no bit changes."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import taskstore
from taskstore.errors import InputError, OptionError
from taskstore.format.manifest import Score
from taskstore.packing.changes.options import AddOptions
from taskstore.packing.changes.tasks import copy, remove, rename
from taskstore.packing.revise import add, record, replace_tasks
from taskstore.store.verify import verify
from tests.support import families
from tests.support.families import State, contents, options, same

CHAIN = {"beta": "alpha", "gamma": "beta", "delta": "beta"}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> families.Family:
    state = base = families.random_state(0)
    tasks = {}
    for i, name in enumerate(("alpha", "beta", "gamma", "delta")):
        tasks[name] = state = families.tuned(state, i, 0.001)
    return families.Family(tmp_path_factory.mktemp("run"), base, tasks)


@pytest.fixture(scope="module", params=["exact", "rest,exact"])
def whole(
    request: pytest.FixtureRequest, run: families.Family, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    target = tmp_path_factory.mktemp("whole") / "store"
    how = options(tiers=request.param, parents=CHAIN, parent="none")
    taskstore.pack(run.base_path, run.paths, target, how)
    record(taskstore.open(target), "accuracy", {"gamma": Score(rebuilt=0.5)})
    return target


@pytest.fixture
def store(whole: Path, tmp_path: Path) -> taskstore.Store:
    return taskstore.open(shutil.copytree(whole, tmp_path / "store"))


def comes_back(store: taskstore.Store, tasks: dict[str, State]) -> bool:
    return verify(store, deep=True).problems == [] and all(
        all(same(found[name], state[name]) for name in state)
        for task, state in tasks.items()
        for found in [store.state_dict(task)]
    )


def parents(store: taskstore.Store) -> dict[str, str | None]:
    return {name: task.parent for name, task in store.manifest.tasks.items()}


def test_remove_codes_the_children_anew(store: taskstore.Store, run: families.Family) -> None:
    """Against the task above; of what stays only their files are new."""
    before = contents(store.path)
    left = remove(store, ["beta"])
    assert parents(left) == {"alpha": None, "gamma": "alpha", "delta": "alpha"}
    tasks = {name: state for name, state in run.tasks.items() if name != "beta"}
    assert comes_back(left, tasks)
    assert left.manifest.tasks["gamma"].scores == store.manifest.tasks["gamma"].scores
    new = contents(left.path).keys() - before.keys()
    assert {path.split("/")[1].split("-")[0] for path in new if "tasks/" in path} == {
        "gamma",
        "delta",
    }
    assert not any(path.startswith("tasks/beta/") for path in contents(left.path))


def test_remove_of_all_above_leaves_the_base(store: taskstore.Store, run: families.Family) -> None:
    left = remove(store, ["alpha", "beta"])
    assert set(parents(left).values()) == {None}
    assert comes_back(left, {name: run.tasks[name] for name in ("gamma", "delta")})


def test_remove_of_a_child_codes_nothing(store: taskstore.Store) -> None:
    before = contents(store.path)
    after = contents(remove(store, ["gamma"]).path)
    assert {path for path in after.keys() - before.keys() if path.endswith(".safetensors")} == set()


def test_a_parent_gets_new_weights(
    store: taskstore.Store, run: families.Family, tmp_path: Path
) -> None:
    other = families.tuned(run.base, 99)
    replace_tasks(store, {"beta": families.save(tmp_path / "other", other)})
    now = taskstore.open(store.path)
    assert parents(now) == {"alpha": None, "beta": None, "gamma": "alpha", "delta": "alpha"}
    assert comes_back(now, {**run.tasks, "beta": other})


def test_a_fine_tune_joins_below_a_task(
    store: taskstore.Store, run: families.Family, tmp_path: Path
) -> None:
    state = families.tuned(run.tasks["gamma"], 9, 0.001)
    path = families.save(tmp_path / "new", state)
    add(store, {"new": path}, AddOptions(parents={"new": "gamma"}))
    now = taskstore.open(store.path)
    assert parents(now)["new"] == "gamma"
    assert comes_back(now, {**run.tasks, "new": state})
    assert now.manifest.vectors and len(now.manifest.vectors.norms) == 5


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"new": "x"}, "parents={'new': 'x'}: 'x' is no such task"),
        ({"x": "gamma"}, "parents={'x': 'gamma'}: 'x' is no such task"),
        ({"new": "new"}, "the parents of 'new' come back to 'new'"),
    ],
)
def test_parents_that_cannot_be(
    given: dict[str, str], message: str, store: taskstore.Store, run: families.Family
) -> None:
    before = contents(store.path)
    with pytest.raises(OptionError, match=message):
        add(store, {"new": run.paths["gamma"]}, AddOptions(parents=given))
    assert contents(store.path) == before


def test_a_parent_of_other_tiers(store: taskstore.Store, run: families.Family) -> None:
    how = AddOptions(parents={"new": "gamma"}, tiers="rest")
    with pytest.raises(OptionError, match="parent does nothing with tiers rest|has the tiers"):
        add(store, {"new": run.paths["gamma"]}, how)


def test_a_chain_ends_where_it_is_too_deep(
    store: taskstore.Store, run: families.Family, tmp_path: Path
) -> None:
    path, above = store.path, "gamma"
    for i in range(5):
        add(
            taskstore.open(path),
            {f"t{i}": run.paths["gamma"]},
            AddOptions(parents={f"t{i}": above}),
        )
        above = f"t{i}"
    with pytest.raises(OptionError, match="'t4' is 8 deep, and no task may be deeper than 8"):
        add(taskstore.open(path), {"t5": run.paths["gamma"]}, AddOptions(parents={"t5": "t4"}))


def test_copies_have_their_parents(
    store: taskstore.Store, run: families.Family, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="'gamma' is coded against 'beta'; name it too"):
        copy(store, ["alpha", "gamma"], tmp_path / "out")
    assert not (tmp_path / "out").exists()
    done = copy(store, ["alpha", "beta", "gamma"], tmp_path / "out")
    assert comes_back(done, {name: run.tasks[name] for name in ("alpha", "beta", "gamma")})


def test_a_parent_is_renamed(store: taskstore.Store, run: families.Family) -> None:
    done = rename(store, "beta", "zeta")
    assert parents(done) == {"alpha": None, "gamma": "zeta", "delta": "zeta", "zeta": "alpha"}
    tasks = {("zeta" if name == "beta" else name): state for name, state in run.tasks.items()}
    assert comes_back(done, tasks)
