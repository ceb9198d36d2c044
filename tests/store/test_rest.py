"""Tiers that build on each other: mask, rest, exact, in any combination."""

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
from taskstore.errors import FormatError, InputError, NotFinite
from taskstore.format.tiers.rest import levels_for
from taskstore.packing.changes.options import AddOptions
from taskstore.packing.changes.tasks import remove
from taskstore.packing.options import PackOptions
from taskstore.packing.revise import add, retier
from taskstore.store.verify import verify
from tests.support import families, forge
from tests.support.evaluators import run
from tests.support.families import State, contents, options, same
from tests.support.forge import Document

W = "layers.0.attn.weight"
DTYPES = [torch.bfloat16, torch.float16, torch.float32]
COMBINATIONS = ["rest", "mask,rest", "mask,exact", "rest,exact", "mask,rest,exact"]


def packed(root: Path, base: State, tasks: dict[str, State], **changes: object) -> taskstore.Store:
    family = families.Family(root, base, tasks)
    taskstore.pack(family.base_path, family.paths, root / "store", options(**changes))
    return taskstore.open(root / "store")


def error(base: State, task: State, rebuilt: State, name: str = W) -> float:
    """|rebuilt - task|^2 / |task - base|^2 of a tensor."""
    tau = task[name].float() - base[name].float()
    return float((rebuilt[name].float() - task[name].float()).norm() ** 2 / tau.norm() ** 2)


def leveled(tiers: str, level: str) -> dict[str, str]:
    """The level, where a tier is coded by it."""
    return {} if tiers == "rest" else {"level": level}


@pytest.mark.parametrize("level", ["speed", "archive"])
@pytest.mark.parametrize("tiers", COMBINATIONS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_tier_is_rebuilt(tiers: str, dtype: torch.dtype, level: str, tmp_path: Path) -> None:
    base = families.random_state(0, dtype)
    tasks = {name: families.tuned(base, i) for i, name in enumerate(("one", "two", "three"))}
    store = packed(tmp_path, base, tasks, tiers=tiers, **leveled(tiers, level))
    coded = {entry.multitask for entry in store.manifest.tensors.values()}
    coded |= {store.manifest.tasks[task].codec("exact", "") for task in tasks}
    assert store.manifest.version == (6 if "deltas" in coded else 4)
    assert "deltas" in coded or level == "speed" or tiers == "rest" or dtype == torch.float32
    assert verify(store, deep=True).ok
    for task, state in tasks.items():
        assert store.tiers(task) == tiers.split(",")
        errors = [error(base, state, store.state_dict(task, tier=t)) for t in store.tiers(task)]
        assert errors == sorted(errors, reverse=True)
        assert len(set(errors)) == len(errors)
        best = store.state_dict(task)
        for name, value in store.state_dict(task, tier=store.tiers(task)[-1]).items():
            assert same(value, best[name])
        if "exact" in tiers:
            assert all(same(best[name], state[name]) for name in state)
            store.check_exact(task)
        if "rest" in tiers:
            assert error(base, state, store.state_dict(task, tier="rest")) < 0.2


def test_the_mask_is_the_same_with_or_without_more(small: families.Family, tmp_path: Path) -> None:
    for tiers in ("mask", "mask,rest,exact"):
        taskstore.pack(small.base_path, small.paths, tmp_path / tiers, options(tiers=tiers))
    plain, more = (taskstore.open(tmp_path / t) for t in ("mask", "mask,rest,exact"))
    for task in plain.tasks:
        rebuilt = more.state_dict(task, tier="mask")
        assert all(same(value, rebuilt[n]) for n, value in plain.state_dict(task).items())
    masks = (path for path in plain.manifest.files if "mask" in path or "multitask" in path)
    for path in masks:
        assert (plain.path / path).read_bytes() == (more.path / path).read_bytes()


@pytest.mark.parametrize("level", ["speed", "archive"])
@pytest.mark.parametrize("tiers", COMBINATIONS)
def test_tensors_of_every_kind(tiers: str, level: str, tmp_path: Path) -> None:
    """Tied, grown, of another dtype, missing, private, integer, without elements."""
    base = {
        **families.random_state(0),
        "ids": torch.arange(9),
        "empty": torch.zeros(0, 4, dtype=torch.bfloat16),
    }
    base["lm_head.weight"] = base["embed_tokens.weight"].clone()
    one, two, three = (families.tuned(base, i) for i in range(3))
    for state in (one, two, three):
        state["lm_head.weight"] = state["embed_tokens.weight"].clone()
    grown = torch.cat([two["embed_tokens.weight"], torch.ones(5, 16, dtype=torch.bfloat16)])
    two["embed_tokens.weight"], two["lm_head.weight"] = grown, grown.clone()
    two["ids"] = torch.arange(9) + 1
    three[W] = three[W].float() * 1.25
    del three["norm.weight"]
    three["score.weight"] = torch.ones(3, 3)
    tasks = {"one": one, "two": two, "three": three}
    store = packed(tmp_path, base, tasks, tiers=tiers, shard_bytes=900, **leveled(tiers, level))
    assert verify(store, deep=True).ok
    for task, state in tasks.items():
        for tier in store.tiers(task):
            rebuilt = store.state_dict(task, tier=tier)
            assert {n: (v.dtype, v.shape) for n, v in rebuilt.items()} == {
                n: (v.dtype, v.shape) for n, v in state.items()
            }
            assert same(rebuilt["ids"], state["ids"])
            assert same(rebuilt["lm_head.weight"], rebuilt["embed_tokens.weight"])
        if "exact" in tiers:
            assert all(same(rebuilt[name], state[name]) for name in state)
    assert same(store.state_dict("two")["embed_tokens.weight"][40:], grown[40:])


@pytest.mark.parametrize("tiers", ["mask", "exact", "mask,rest,exact"])
def test_the_archive_level_rebuilds_the_same(
    tiers: str, small: families.Family, tmp_path: Path
) -> None:
    for level in ("speed", "archive"):
        chosen = options(tiers=tiers, level=level)
        taskstore.pack(small.base_path, small.paths, tmp_path / level, chosen)
    speed, archive = (taskstore.open(tmp_path / level) for level in ("speed", "archive"))
    assert archive.manifest.version == 6
    for task in speed.tasks:
        for tier in speed.tiers(task):
            rebuilt = archive.state_dict(task, tier=tier)
            for name, value in speed.state_dict(task, tier=tier).items():
                assert same(value, rebuilt[name])


def test_more_bits_miss_less(small: families.Family, tmp_path: Path) -> None:
    errors = []
    for bits in (1.0, 2.0, 4.0):
        chosen = options(tiers="rest", residual=bits)
        taskstore.pack(small.base_path, small.paths, tmp_path / f"{bits}", chosen)
        store = taskstore.open(tmp_path / f"{bits}")
        asked = [task.bits or 0 for task in store.manifest.tasks.values()]
        assert sum(asked) / len(asked) == pytest.approx(bits, abs=1 / 128)
        errors.append(error(small.base, small.tasks["beta"], store.state_dict("beta")))
    assert errors[0] > 3 * errors[1] > 9 * errors[2]


def test_bits_of_one_task(small: families.Family, tmp_path: Path) -> None:
    chosen = options(residual=1.0, residuals={"beta": 3.0})
    taskstore.pack(small.base_path, small.paths, tmp_path / "s", chosen)
    tasks = taskstore.open(tmp_path / "s").manifest.tasks
    assert {name: task.bits for name, task in tasks.items()} == {
        "alpha": 1.0, "beta": 3.0, "gamma": 1.0
    }  # fmt: skip
    assert all(task.tiers == ["mask", "rest"] for task in tasks.values())


@given(
    st.lists(st.integers(0, 9), max_size=4),
    st.integers(0, 2000),
    st.floats(0.25, 8),
)
def test_rows_of_any_shape(shape: list[int], start: int, bits: float) -> None:
    codec = levels_for(tuple(shape), start, bits)
    assert codec.columns == 0 or codec.first < codec.columns
    assert codec.columns == 0 or codec.columns >= 64


def test_a_row_is_what_makes_sense() -> None:
    assert levels_for((1000, 256), 300, 2.0).columns == 256  # a matrix
    assert levels_for((1000, 256), 300, 2.0).first == 44
    assert levels_for((64, 3, 7, 7), 0, 2.0).columns == 147  # a filter
    assert levels_for((8, 512, 128), 0, 2.0).columns == 128  # experts
    assert levels_for((512,), 0, 2.0).step == 1 / 16  # a norm
    assert levels_for((256, 1, 7, 7), 0, 2.0).step == 1  # a small filter
    assert levels_for((256, 1, 7, 7), 0, 0.5).step < 1
    assert levels_for((1, 1, 256), 0, 0.5).step == levels_for((512,), 0, 0.5).step
    assert levels_for((1 << 16, 1, 7, 7), 0, 0.5).step > 2  # too many weights for that


def test_equal_input_gives_equal_bytes(small: families.Family, tmp_path: Path) -> None:
    for name, more in (("a", {"jobs": 1}), ("b", {"jobs": 4, "max_memory": 80 << 20})):
        chosen = options(tiers="mask,rest,exact", **more)
        taskstore.pack(small.base_path, small.paths, tmp_path / name, chosen)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


@pytest.mark.parametrize("level", ["speed", "archive"])
def test_changing_a_store_with_exact_tiers(
    level: str, small: families.Family, tmp_path: Path
) -> None:
    """What add --repack and retier make is what packing the originals makes."""
    chosen = options(tiers="mask,rest,exact", residual=1.5, level=level)
    some = {name: path for name, path in small.paths.items() if name != "gamma"}
    taskstore.pack(small.base_path, some, tmp_path / "s", chosen)
    taskstore.pack(small.base_path, small.paths, tmp_path / "all", chosen)
    repack = AddOptions(repack=True)
    add(taskstore.open(tmp_path / "s"), {"gamma": small.paths["gamma"]}, repack)
    ours, whole = contents(tmp_path / "s"), contents(tmp_path / "all")
    told = {"README.md", "taskstore.json"}  # they say what was done, and files that are new by name
    assert {raw for n, raw in ours.items() if n not in told} == {
        raw for n, raw in whole.items() if n not in told
    }
    less = options(tiers="rest", residual=1.0)
    taskstore.pack(small.base_path, small.paths, tmp_path / "rest", less)
    retier(taskstore.open(tmp_path / "s"), less, tmp_path / "less")
    assert contents(tmp_path / "less") == contents(tmp_path / "rest")
    left = remove(taskstore.open(tmp_path / "less"), ["alpha"])
    assert left.tasks == ["beta", "gamma"]
    assert verify(left, deep=True).ok
    with pytest.raises(InputError, match="keeps no more of 'beta'"):
        add(left, {"alpha": small.paths["alpha"]}, repack)


def test_what_cannot_be(small: families.Family, packed_rest: Path, tmp_path: Path) -> None:
    store = taskstore.open(packed_rest)
    with pytest.raises(InputError, match="task 'beta' has no tier 'mask'; it has rest and exact"):
        store.state_dict("beta", tier="mask")
    with pytest.raises(InputError, match="no tier 'mask'"):
        store.unpack("beta", tmp_path / "m", tier="mask")
    assert not (tmp_path / "m").exists()
    for bad in ("0", "9", "nan", "-1"):
        with pytest.raises(InputError, match="not a number from 0.1 to 8"):
            PackOptions(residual=float(bad) or 0.09)
    with pytest.raises(InputError, match="residual is given for 'delta'"):
        chosen = options(residuals={"delta": 1.0})
        taskstore.pack(small.base_path, small.paths, tmp_path / "s", chosen)


@pytest.fixture(scope="module")
def packed_rest(small: families.Family, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("rest") / "store"
    taskstore.pack(small.base_path, small.paths, target, options(tiers="rest,exact"))
    return target


def test_not_a_number_needs_an_archive(small: families.Family, tmp_path: Path) -> None:
    state = {**small.tasks["alpha"], W: small.tasks["alpha"][W] * float("nan")}
    family = families.Family(tmp_path, small.base, {"bad": state})
    with pytest.raises(NotFinite, match="bad"):
        taskstore.pack(family.base_path, family.paths, tmp_path / "s", options(tiers="rest,exact"))


def test_the_commands(small: families.Family, packed_rest: Path, tmp_path: Path) -> None:
    words = [str(small.base_path), *(f"{n}={p}" for n, p in small.paths.items())]
    target = tmp_path / "s"
    given = ["--tiers", "mask", "--rest-bits", "1"]
    code, out, err = run("pack", *words, "-o", str(target), *given, "--json")
    assert code == 0, err
    report = json.loads(out)
    assert report["rest_bytes"] > 0
    assert [t["tiers"] for t in report["tasks"]] == [["mask", "rest"]] * 3
    code, out, _ = run("info", str(target))
    assert "rest of 3 tasks, quantised" in out
    for tier in ("mask", "rest"):
        code, _, err = run("unpack", target, "beta", "-o", tmp_path / tier, "--tier", tier)
        assert code == 0, err
    mask, rest = (load_file(tmp_path / t / "model.safetensors") for t in ("mask", "rest"))
    assert error(small.base, small.tasks["beta"], rest) < error(
        small.base, small.tasks["beta"], mask
    )
    code, _, err = run("load", str(packed_rest), "beta", "--tier", "mask")
    assert (code, "has no tier 'mask'" in err) == (1, True)
    code, _, err = run("pack", *words, "-o", str(tmp_path / "x"), "--rest-bits", "much")
    assert (code, "--rest-bits 'much' is not a number or NAME=either" in err) == (2, True)
    args = ["unpack", str(packed_rest), "beta", "-o", str(tmp_path / "e")]
    assert run(*args, "--tier", "rest", "--exact")[0] == 2
    assert run(*args, "--exact")[0] == 0
    assert same(load_file(tmp_path / "e" / "model.safetensors")[W], small.tasks["beta"][W])


def task(d: Document, name: str = "beta") -> Document:
    found: Document = d["tasks"][name]
    return found


CASES: dict[str, tuple[Callable[[Document], object], str]] = {
    "tiers in an older store": (lambda d: d.update(version=2), "in a store of version 2"),
    "no tiers": (lambda d: task(d).update(tiers=[]), "build on nothing"),
    "tiers in another order": (lambda d: task(d).update(tiers=["exact", "rest"]), "on nothing"),
    "tiers twice": (lambda d: task(d).update(tiers=["rest", "rest"]), "build on nothing"),
    "an unknown tier": (lambda d: task(d).update(tiers=["rest", "more"]), "more"),
    "another first tier": (lambda d: task(d).update(tiers=["mask", "rest"]), "fit the tiers"),
    "no checksum of a lower tier": (lambda d: task(d)["tensors"][W].pop("lower"), "fit the tiers"),
    "a checksum too many": (
        lambda d: task(d)["tensors"][W]["lower"].append("0" * 64), "fit the tiers"
    ),
    "a rest without bits": (lambda d: task(d).pop("bits"), "without its bits"),
    "bits without a rest": (
        lambda d: [task(d).pop("tiers"), task(d).update(bits=2.0)], "no such tier"
    ),
    "tiers gone": (lambda d: [task(d).pop("tiers"), task(d).pop("bits")], "fit the tiers"),
    "ones of a rest": (lambda d: task(d)["tensors"][W].update(ones=1), "'ones'"),
    "deltas in an older store": (lambda d: [d.update(version=5),
        task(d).update(codecs={"exact": "deltas"})], "store of version 1 to 5"),
    "codecs in an older store": (
        lambda d: [d.update(version=2), task(d).pop("tiers"), task(d).pop("bits"),
                   task(d).update(codecs={"exact": "strides"})], "version 2"
    ),
    "codecs of nothing": (lambda d: task(d).update(codecs={}), "codes its tiers by"),
    "a codec of another tier": (
        lambda d: task(d).update(codecs={"exact": "guided"}), "codes its tiers by"
    ),
    "a file that is not there": (
        lambda d: d["files"].pop("tasks/beta/rest.safetensors"), "rest"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_manifests_that_break_a_must(name: str, packed_rest: Path, tmp_path: Path) -> None:
    change, message = CASES[name]
    store = Path(shutil.copytree(packed_rest, tmp_path / "store"))
    forge.edit(store, lambda d: task(d).pop("shards"))  # which are of exact tensors only
    forge.edit(store, change)
    with pytest.raises(FormatError, match=message):
        taskstore.open(store).state_dict("beta")
