"""Mask algebra over a store, beside plain booleans; the angles, beside plain torch."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import taskstore
from taskstore.analysis.overlap import Angles, Overlap, measure
from taskstore.errors import BaseUnavailable, FormatError
from taskstore.kernels import bits
from tests.support import families, forge
from tests.support.families import Family, State


@st.composite
def stacks(draw: st.DrawFn) -> np.ndarray:
    """Some masks (S, N), and one more row: the positions to count."""
    rows, n = draw(st.integers(1, 20)), draw(st.integers(1, 150))
    flat = draw(st.lists(st.booleans(), min_size=rows * n, max_size=rows * n))
    return np.array(flat, np.bool_).reshape(rows, n)


@given(stacks())
def test_usage_is_a_histogram_of_sums(rows_SN: np.ndarray) -> None:
    *masks, within_N = rows_SN
    found = bits.usage([bits.pack(mask) for mask in masks], bits.pack(within_N))
    sums_N = np.array(masks).reshape(len(masks), -1).sum(axis=0) if masks else 0 * within_N
    expected = [(within_N & (sums_N == k)).sum() for k in range(len(masks) + 1)]
    assert found.tolist() == expected


@given(stacks())
def test_intersections(rows_SN: np.ndarray) -> None:
    found = bits.intersections([bits.pack(mask) for mask in rows_SN])
    assert found.tolist() == (rows_SN.astype(int) @ rows_SN.T.astype(int)).tolist()


def test_usage_by_hand() -> None:
    """Three masks of ten positions, eight of them counted.

    position   0 1 2 3 4 5 6 7 8 9
    a          1 1 1 0 0 0 0 1 0 1
    b          1 1 0 1 0 0 0 0 0 1
    c          1 0 0 0 1 0 0 0 0 0
    counted    1 1 1 1 1 1 1 1 0 0
    sum        3 2 1 1 1 0 0 1
    """
    rows = ("1110000101", "1101000001", "1000100000", "1111111100")
    a, b, c, within = (bits.pack(np.array([*map(int, row)], np.bool_)) for row in rows)
    assert bits.usage([a, b, c], within).tolist() == [2, 4, 1, 1]
    assert bits.intersections([a, b, c]).tolist() == [[5, 3, 1], [3, 4, 1], [1, 1, 2]]


def halves(text: str) -> Tensor:
    """0 stays, 1 moves by a half."""
    return torch.tensor([0.5 * int(c) for c in text])


@pytest.fixture(scope="module")
def by_hand(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every task vector is one, or none, so with lambda 0.4 and by sum every mask is plain.

    m = (|t| > 0.4 |sum - t|); on `w` all sums are 0, 0.5, 1 or 1.5. `head` only a and b have.
    """
    root = tmp_path_factory.mktemp("hand")
    moves = {
        "a": {"layers.0.mlp.weight": "11100001", "lm_head.weight": "1100"},
        "b": {"layers.0.mlp.weight": "11010000", "lm_head.weight": "0110"},
        "c": {"layers.0.mlp.weight": "10001000"},
    }
    base = {"layers.0.mlp.weight": torch.ones(8), "lm_head.weight": torch.ones(4)}
    tasks = {
        task: {name: base[name] + halves(text) for name, text in own.items()}
        for task, own in moves.items()
    }
    made = Family(root, base, tasks)
    options = families.options(lam=0.4, method="sum", chunk=64)
    taskstore.pack(made.base_path, made.paths, root / "store", options)
    return root / "store"


def test_a_store_by_hand(by_hand: Path) -> None:
    """Where two tasks move, t = 0.5 and the others' sum is 0.5 or 1: 0.5 > 0.4 * 0.5, 0.4 * 1."""
    found = measure(taskstore.open(by_hand))
    assert found.tasks == ["a", "b", "c"]
    mlp, head = found.tensors
    assert (mlp.name, mlp.kind, mlp.layer, mlp.elements) == ("layers.0.mlp.weight", "mlp", 0, 8)
    assert (mlp.live, mlp.ones, mlp.usage) == (6, {"a": 4, "b": 3, "c": 2}, [0, 4, 1, 1])
    assert (head.kind, head.live, head.usage) == ("head", 3, [0, 2, 1])
    assert head.ones == {"a": 2, "b": 2}
    assert found.usage == [0, 6, 2, 1]
    assert (found.live, found.elements, found.universal) == (9, 12, 2)
    assert found.both == [[6, 3, 1], [3, 5, 1], [1, 1, 2]]
    assert found.own == [[6, 6, 4], [5, 5, 3], [2, 2, 2]], "c has no head: only the mlp counts"
    assert found.either == [[6, 8, 5], [8, 5, 4], [5, 4, 2]]
    assert found.differ == [[0, 5, 4], [5, 0, 3], [4, 3, 0]]
    assert found.jaccard[0] == [1.0, 3 / 8, 1 / 5]
    assert found.contained[2] == [1 / 2, 1 / 2, 1.0]
    assert found.usage_by(lambda t: t.kind) == {"mlp": [0, 4, 1, 1], "head": [0, 2, 1, 0]}


def booleans(store: taskstore.Store, base: dict[str, Tensor], task: str) -> dict[str, np.ndarray]:
    """Where a task is the multi-task model and not the base, told from rebuilt weights alone."""
    rebuilt = store.state_dict(task, tier="mask")
    return {
        name: families.bits(rebuilt[name]).view(torch.int16).numpy()
        != families.bits(weight).view(torch.int16).numpy()
        for name, weight in base.items()
        if name in rebuilt
    }


@pytest.mark.parametrize("level", ["speed", "archive"])
@pytest.mark.parametrize("jobs", [1, 3])
def test_against_booleans(small: Family, tmp_path: Path, level: str, jobs: int) -> None:
    taskstore.pack(
        small.base_path, small.paths, tmp_path / "s", families.options(level=level, lam=2.0)
    )
    store = taskstore.open(tmp_path / "s")
    found = measure(store, jobs=jobs)
    masks = {task: booleans(store, small.base, task) for task in store.tasks}
    flat = [np.concatenate([masks[t][u.name].ravel() for u in found.tensors]) for t in found.tasks]
    for i, a in enumerate(flat):
        for j, b in enumerate(flat):
            assert found.both[i][j] == (a & b).sum()
            assert found.either[i][j] == (a | b).sum()
            assert found.differ[i][j] == (a ^ b).sum()
    used = np.sum(flat, axis=0)
    assert found.usage[1:] == [(used == k).sum() for k in range(1, len(flat) + 1)]
    assert found.usage[0] > 0, "with a large lambda, some weights are nobody's"
    assert sum(found.usage) == found.live <= found.elements
    for tensor in found.tensors:
        own = {task: masks[task][tensor.name].sum() for task in store.tasks}
        assert tensor.ones == own
        assert sum(k * n for k, n in enumerate(tensor.usage)) == sum(own.values())


def test_tensors_that_are_tied_grown_private_or_empty(tmp_path: Path) -> None:
    """A tied tensor counts once, a grown one up to the base's rows, a private one not."""
    made = Family(tmp_path, *families.rich_states())
    taskstore.pack(made.base_path, made.paths, tmp_path / "s", families.options())
    store = taskstore.open(tmp_path / "s")
    found = measure(store, vectors=True)
    names = [tensor.name for tensor in found.tensors]
    assert not {"ids", "head.weight", "empty"} & set(names)
    assert len({"lm_head.weight", "embed_tokens.weight"} & set(names)) == 1
    assert all(t.elements == made.base[t.name].numel() for t in found.tensors)
    expected = {t: entry.ones for t, entry in store.manifest.tasks["two"].tensors.items()}
    assert {t.name: t.ones["two"] for t in found.tensors} == {n: expected[n] for n in names}


def check_vectors(found: Angles, base: State, models: dict[str, State]) -> None:
    """Compare lengths and cosines with those of models in memory."""

    def flat(state: State) -> Tensor:
        return torch.cat([(state[n].float() - base[n].float()).flatten() for n in base]).double()

    taus = {task: flat(state) for task, state in models.items()}
    assert list(found.norms) == list(taus)
    for i, (name, tau) in enumerate(taus.items()):
        assert found.norms[name] == pytest.approx(float(tau.norm()), rel=1e-4)
        for j, other in enumerate(taus.values()):
            cos = float(tau @ other / tau.norm() / other.norm())
            assert found.cosines[i][j] == pytest.approx(cos, abs=1e-4)


@pytest.mark.parametrize("tiers", ["mask", "mask,rest", "rest", "exact"])
def test_vectors_are_those_of_the_fine_tunes(small: Family, tmp_path: Path, tiers: str) -> None:
    taskstore.pack(small.base_path, small.paths, tmp_path / "s", families.options(tiers=tiers))
    found = measure(taskstore.open(tmp_path / "s"), vectors=True).vectors
    assert found is not None and (set(found.of.values()), found.share) == ({"fine-tune"}, 1)
    check_vectors(found, small.base, small.tasks)


@pytest.mark.parametrize("tiers", ["mask", "mask,rest", "rest", "exact"])
def test_vectors_of_a_store_that_records_none(small: Family, tmp_path: Path, tiers: str) -> None:
    """They are rebuilt from rests and exact tensors; masks alone say nothing of them."""
    taskstore.pack(small.base_path, small.paths, tmp_path / "s", families.options(tiers=tiers))
    forge.make_older(tmp_path / "s", 3)
    store = taskstore.open(tmp_path / "s")
    found = measure(store, vectors=True).vectors
    if tiers == "mask":
        assert found is None
        return
    assert found is not None and set(found.of.values()) == {tiers.split(",")[-1]}
    check_vectors(found, small.base, {task: store.state_dict(task) for task in store.tasks})


def test_a_task_that_is_the_base_has_no_angle(tmp_path: Path) -> None:
    base = families.random_state(0)
    same = {**base, "head.weight": torch.ones(2)}
    made = Family(tmp_path, base, {"one": families.tuned(base, 1), "same": same})
    taskstore.pack(made.base_path, made.paths, tmp_path / "s", families.options())
    found = measure(taskstore.open(tmp_path / "s"), vectors=True)
    assert found.vectors is not None
    assert found.vectors.norms["same"] == 0
    assert found.vectors.cosines[1] == [None, None]
    document = found.to_dict()
    assert document["vectors"]["cosines"][0][1] is None


@pytest.mark.parametrize("tiers", ["rest", "exact"])
def test_a_store_without_masks(small: Family, tmp_path: Path, tiers: str) -> None:
    taskstore.pack(small.base_path, small.paths, tmp_path / "s", families.options(tiers=tiers))
    found = measure(taskstore.open(tmp_path / "s"))
    assert (found.tasks, found.tensors, found.usage, found.live) == ([], [], [0], 0)


def test_a_mask_that_is_not_the_recorded_one(packed: Path, tmp_path: Path) -> None:
    store = Path(shutil.copytree(packed, tmp_path / "s"))

    def one_more(document: forge.Document) -> None:
        document["tasks"]["alpha"]["tensors"]["embed_tokens.weight"]["ones"] += 1

    forge.edit(store, one_more)
    with pytest.raises(FormatError, match="'embed_tokens.weight' of task 'alpha' has .* ones"):
        measure(taskstore.open(store))


def test_a_base_that_is_not_there(small: Family, tmp_path: Path) -> None:
    """Masks are counted without it where no codec needs it; vectors are recorded."""
    base = Path(shutil.copytree(small.base_path, tmp_path / "base"))
    for level in ("speed", "archive"):
        options = families.options(base="reference", level=level)
        taskstore.pack(base, small.paths, tmp_path / level, options)
    shutil.rmtree(base)
    found = measure(taskstore.open(tmp_path / "speed"))
    assert found == measure(taskstore.open(tmp_path / "archive", base=small.base_path))
    with pytest.raises(BaseUnavailable):
        measure(taskstore.open(tmp_path / "archive"))
    assert measure(taskstore.open(tmp_path / "speed"), vectors=True).vectors is not None


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize("scale", [0.004, 1e-9])
def test_other_dtypes(tmp_path: Path, dtype: torch.dtype, scale: float) -> None:
    """float32 may be coded by `rounded`, where the base tells what moved."""
    base = families.random_state(0, dtype)
    tasks = {name: families.tuned(base, i, scale) for i, name in enumerate(("one", "two"))}
    tasks["one"]["scale"] = tasks["one"]["scale"] + 1
    tasks["two"]["scale"] = tasks["two"]["scale"] + 1
    made = Family(tmp_path, base, tasks)
    taskstore.pack(made.base_path, made.paths, tmp_path / "s", families.options(lam=0.01))
    store = taskstore.open(tmp_path / "s")
    found = measure(store)
    for tensor in found.tensors:
        used = np.zeros(tensor.elements, int)
        for task in store.tasks:
            used += (store.state_dict(task)[tensor.name] != base[tensor.name]).numpy().ravel()
        assert tensor.usage[1:] == [(used == 1).sum(), (used == 2).sum()]


def test_to_dict_is_plain(packed: Path) -> None:
    found = measure(taskstore.open(packed), vectors=True)
    assert isinstance(found, Overlap)
    document = found.to_dict()
    assert document["usage"] == found.usage
    assert len(document["tensors"]) == len(found.tensors)
    assert document["vectors"]["norms"].keys() == {"alpha", "beta", "gamma"}
