"""The sums that a pack measures are those of the models that come out of the store."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import taskstore
from taskstore.format.fidelity import of_task
from taskstore.format.manifest import Score
from taskstore.merging import similarity
from taskstore.packing.changes.tasks import remove
from taskstore.packing.revise import add, record, retier
from tests.support import families
from tests.support.families import State, options, rich_states

NAMES = ("error", "weights", "vector", "product")


def four_sums(base: State, task: State, rebuilt: State, names: list[str]) -> list[float]:
    """In float64 on whole tensors; of a tensor that grew the base's rows."""
    found = torch.zeros(4, dtype=torch.float64)
    for name in names:
        theta0 = base[name].double()
        own, back = (x[name].double()[: len(theta0)] if theta0.dim() else x[name].double()
                     for x in (task, rebuilt))  # fmt: skip
        tau, missed = own - theta0, back - own
        parts = (missed * missed, own * own, tau * tau, tau * (tau + missed))
        found += torch.stack([part.sum() for part in parts])
    return list(found.tolist())


def check(store: taskstore.Store, base: State, tasks: dict[str, State]) -> None:
    for name, task in store.manifest.tasks.items():
        tiers = [tier for tier in task.all_tiers if tier != "exact"]
        assert list(task.fidelity or {}) == tiers
        for tier in tiers:
            shared = [n for n in task.tensors if task.tiers_of(n)]
            expected = four_sums(base, tasks[name], store.state_dict(name, tier=tier), shared)
            measured = (task.fidelity or {})[tier]
            found = [getattr(measured, x) for x in NAMES]
            assert found == pytest.approx(expected, rel=1e-5)


TIERS = ["mask", "rest", "mask,rest", "mask,exact", "mask,rest,exact"]
CASES = [(method, tiers) for tiers in TIERS for method in ("lsq", "sum") if "mask" in tiers]
CASES += [("", "rest")]


@pytest.mark.parametrize(("method", "tiers"), CASES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_as_the_models_say(dtype: torch.dtype, method: str, tiers: str, tmp_path: Path) -> None:
    base = families.random_state(0, dtype)
    tasks = {name: families.tuned(base, i) for i, name in enumerate(("one", "two", "three"))}
    family = families.Family(tmp_path, base, tasks)
    chosen = options(tiers=tiers, **({"method": method} if method else {}))
    taskstore.pack(family.base_path, family.paths, tmp_path / "s", chosen)
    check(taskstore.open(tmp_path / "s"), base, tasks)


@pytest.mark.parametrize("tiers", ["mask", "rest"])
def test_of_a_large_family_by_a_sample(
    tiers: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What counts as large is set low; figures move little, cosines too."""
    base = families.random_state(0, torch.bfloat16, shapes={"w": (700, 1024), "b": (40,)})
    tasks = {name: families.tuned(base, i) for i, name in enumerate(("one", "two"))}
    family = families.Family(tmp_path, base, tasks)
    found = []
    for small in (similarity.SMALL, 1000):
        monkeypatch.setattr(similarity, "SMALL", small)
        monkeypatch.setattr(similarity, "SAMPLE", 200_000)
        store = tmp_path / f"s{small}"
        taskstore.pack(family.base_path, family.paths, store, options(tiers=tiers))
        found.append(taskstore.open(store))
    whole, part = (store.fidelity("one") for store in found)
    assert part != whole, "it was sampled"
    assert part.weight_error == pytest.approx(whole.weight_error, rel=0.03)
    assert part.projection == pytest.approx(whole.projection, abs=0.02)
    vectors = [store.manifest.vectors for store in found]
    assert vectors[0] and vectors[1] and vectors[0].share == 1 and vectors[1].share < 0.2
    assert vectors[1].norms["one"] == pytest.approx(vectors[0].norms["one"], rel=0.03)


@pytest.mark.parametrize("tiers", ["mask", "rest"])
def test_of_what_is_shared_alone(tiers: str, tmp_path: Path) -> None:
    """Tied tensors count once; grown rows, heads and integers do not."""
    base, tasks = rich_states()
    family = families.Family(tmp_path, base, tasks)
    taskstore.pack(family.base_path, family.paths, tmp_path / "s", options(tiers=tiers))
    store = taskstore.open(tmp_path / "s")
    assert store.manifest.tasks["one"].tensors["lm_head.weight"].kind == "alias"
    check(store, base, tasks)


def test_in_the_fine_tunes_own_dtype(tmp_path: Path) -> None:
    base = families.random_state(0, torch.float32)
    tasks = {
        "half": families.tuned(base, 1, dtype=torch.bfloat16),
        "full": families.tuned(base, 2),
    }
    family = families.Family(tmp_path, base, tasks)
    taskstore.pack(family.base_path, family.paths, tmp_path / "s", options(tiers="mask,rest"))
    check(taskstore.open(tmp_path / "s"), base, tasks)


def test_exact_alone_has_none(small: families.Family, tmp_path: Path) -> None:
    taskstore.pack(small.base_path, small.paths, tmp_path / "s", options(tiers="exact"))
    store = taskstore.open(tmp_path / "s")
    assert "fidelity" not in (tmp_path / "s" / "taskstore.json").read_text()
    assert {of_task(task).kind for task in store.manifest.tasks.values()} == {"exact"}


def test_any_number_of_jobs_sums_the_same(small: families.Family, tmp_path: Path) -> None:
    found = []
    for jobs in (1, 2, 5):
        target = tmp_path / str(jobs)
        taskstore.pack(
            small.base_path, small.paths, target, options(tiers="mask,rest", jobs=jobs, chunk=64)
        )
        found.append(json.loads((target / "taskstore.json").read_text())["tasks"])
    assert found[0] == found[1] == found[2]


def test_a_change_keeps_or_measures_them(small: families.Family, tmp_path: Path) -> None:
    """What is packed anew is measured anew, and the same; what is left alone is kept."""
    two = {name: small.paths[name] for name in ("alpha", "beta")}
    all_of_them, some = (
        taskstore.pack(small.base_path, paths, tmp_path / name, options(tiers="rest,exact"))
        for name, paths in (("all", small.paths), ("some", two))
    )
    expected = {
        name: t.fidelity for name, t in taskstore.open(all_of_them.path).manifest.tasks.items()
    }
    how = taskstore.AddOptions(max_error=None)  # the bits that the others have
    add(taskstore.open(some.path), {"gamma": small.paths["gamma"]}, how)
    assert {n: t.fidelity for n, t in taskstore.open(some.path).manifest.tasks.items()} == expected
    retier(taskstore.open(some.path), options(tiers="rest"), tmp_path / "rest")
    left = remove(taskstore.open(tmp_path / "rest"), ["beta"])
    again = record(left, "accuracy", {"alpha": Score(rebuilt=0.5)})
    assert {name: task.fidelity for name, task in again.manifest.tasks.items()} == {
        name: expected[name] for name in ("alpha", "gamma")
    }
