"""Packing against the plain torch computation, over everything that comes in."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import taskstore
from taskstore.errors import BadName, InputError, NotFinite, NotOneFamily, TargetExists
from taskstore.progress import Progress
from tests.support import families, oracle
from tests.support.families import CHUNK, State, contents, options, same

DTYPES = [torch.bfloat16, torch.float16, torch.float32]


def expected(
    base: State, tasks: dict[str, State], task: str, name: str, lam: float, codec: str | None
) -> torch.Tensor:
    vectors = oracle.task_vectors(base, tasks)
    merged = oracle.merged_sum(vectors, name)
    return oracle.rebuild(base[name], vectors[task][name], merged, lam, rounded=codec == "rounded")


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_tensor_equals_the_plain_computation(dtype: torch.dtype, tmp_path: Path) -> None:
    family = families.family(tmp_path, dtype=dtype)
    lambdas = {"alpha": 0.2, "gamma": 0.6}
    taskstore.pack(
        family.base_path, family.paths, tmp_path / "store", options(lam=0.4, lambdas=lambdas)
    )
    store = taskstore.open(tmp_path / "store")
    assert store.tasks == ["alpha", "beta", "gamma"]
    for task in store.tasks:
        rebuilt = store.state_dict(task)
        assert sorted(rebuilt) == sorted(family.base)
        assert store.manifest.tasks[task].lam == lambdas.get(task, 0.4)
        for name, tensor in rebuilt.items():
            codec = store.manifest.tensors[name].multitask
            lam = lambdas.get(task, 0.4)
            assert same(tensor, expected(family.base, family.tasks, task, name, lam, codec)), (
                task,
                name,
            )
    base = store.state_dict(None)
    assert all(same(base[name], family.base[name]) for name in family.base)


def test_fp32_stores_the_smaller_coding(tmp_path: Path) -> None:
    """Large steps: the rounded vector wins. One ulp: the difference does."""
    base = families.random_state(0, torch.float32)
    tasks = {name: families.tuned(base, i) for i, name in enumerate(("a", "b"))}
    for state in tasks.values():
        weight = base["layers.1.mlp.weight"]
        state["layers.1.mlp.weight"] = torch.nextafter(weight, weight + 1)
    family = families.Family(tmp_path, base, tasks)
    taskstore.pack(family.base_path, family.paths, tmp_path / "store", options())
    tensors = taskstore.open(tmp_path / "store").manifest.tensors
    assert tensors["layers.1.mlp.weight"].multitask == "ulp"
    assert tensors["embed_tokens.weight"].multitask == "rounded"


def test_ties_equals_the_plain_computation(small: families.Family, tmp_path: Path) -> None:
    taskstore.pack(small.base_path, small.paths, tmp_path / "s", options(method="ties"))
    store = taskstore.open(tmp_path / "s")
    assert store.manifest.merge.options == {"density": 0.2}
    vectors = oracle.task_vectors(small.base, small.tasks)
    merged = oracle.merged_ties(vectors)
    for task in store.tasks:
        for name, tensor in store.state_dict(task).items():
            assert same(
                tensor, oracle.rebuild(small.base[name], vectors[task][name], merged[name], 0.4)
            )


@pytest.mark.parametrize("dtype", DTYPES)
def test_lsq_equals_the_plain_computation(dtype: torch.dtype, tmp_path: Path) -> None:
    """Its masks take no weight that the merged vector moves the other way."""
    family = families.family(tmp_path, dtype=dtype)
    taskstore.pack(family.base_path, family.paths, tmp_path / "s", options(method="lsq"))
    store = taskstore.open(tmp_path / "s")
    vectors = oracle.task_vectors(family.base, family.tasks)
    for task in store.tasks:
        for name, tensor in store.state_dict(task).items():
            rounded = store.manifest.tensors[name].multitask == "rounded"
            merged = oracle.merged_lsq(vectors, name)
            base, tau = family.base[name], vectors[task][name]
            expected = oracle.rebuild(base, tau, merged, 0.4, rounded=rounded, one_sided=True)
            assert same(tensor, expected), name


@given(
    st.sampled_from(DTYPES),
    st.lists(st.lists(st.integers(0, 40), max_size=3).map(tuple), min_size=1, max_size=4),
    st.integers(1, 4),
    st.sampled_from([0.0, 0.3, 1.0]),
)
def test_round_trip_of_any_shapes(
    tmp_path_factory: pytest.TempPathFactory,
    dtype: torch.dtype,
    shapes: list[tuple[int, ...]],
    tasks: int,
    lam: float,
) -> None:
    """Empty tensors, scalars, odd sizes, several chunks."""
    root = tmp_path_factory.mktemp("shapes")
    named: dict[str, tuple[int, ...]] = {"w": (5,)} | {f"t{i}": s for i, s in enumerate(shapes)}
    family = families.family(root, tasks, dtype, named)
    taskstore.pack(family.base_path, family.paths, root / "store", options(lam=lam, chunk=128))
    store = taskstore.open(root / "store")
    for task in store.tasks:
        for name, tensor in store.state_dict(task).items():
            codec = store.manifest.tensors[name].multitask
            assert same(tensor, expected(family.base, family.tasks, task, name, lam, codec))
    shutil.rmtree(root)


@pytest.mark.parametrize("method", ["lsq", "sum", "ties"])
def test_equal_input_gives_equal_bytes(small: families.Family, tmp_path: Path, method: str) -> None:
    """For any number of workers, memory, order of tasks, of keys and of shards."""
    shuffled = families.Family(
        tmp_path / "shuffled",
        dict(reversed(small.base.items())),
        {n: dict(reversed(s.items())) for n, s in reversed(small.tasks.items())},
        lambda folder, state, **kw: families.save(folder, state, shards=3, **kw),
    )
    stores = []
    for i, (family, changes) in enumerate(
        [(small, {"jobs": 1}), (small, {"jobs": 4}), (small, {"jobs": 3, "max_memory": 66 << 20}),
         (shuffled, {})]
    ):  # fmt: skip
        target = tmp_path / f"store{i}"
        taskstore.pack(family.base_path, family.paths, target, options(method=method, **changes))
        stores.append(contents(target))
    assert stores[0] == stores[1] == stores[2]
    differs = {path for path in stores[0] if stores[0][path] != stores[3][path]}
    # index files count towards the recorded size of the originals, and nothing else differs
    assert differs <= {"taskstore.json", "README.md"}
    more = stores[3].keys() - stores[0].keys()  # how the base was cut: three headers, an index
    assert stores[0].keys() <= stores[3].keys()
    assert len(more) == 4
    assert all(path.startswith("assets/") for path in more)


def test_shards(small: families.Family, tmp_path: Path) -> None:
    report = taskstore.pack(small.base_path, small.paths, tmp_path / "s", options(shard_bytes=4000))
    files = taskstore.open(report.path).manifest.files
    assert sum(path.startswith("base-0000") for path in files) > 1
    assert "tasks/alpha/masks.safetensors" in files
    for task in small.tasks:
        assert taskstore.open(report.path).state_dict(task)


def test_progress_and_report(small: families.Family, tmp_path: Path) -> None:
    seen: list[Progress] = []
    report = taskstore.pack(
        small.base_path, small.paths, tmp_path / "s", options(method="ties"), seen.append
    )
    assert seen[-1].done == seen[-1].total > 0
    assert [p.done for p in seen] == sorted(p.done for p in seen)
    assert json.dumps(report.to_dict())
    summary = report.summary
    on_disk = sum(p.stat().st_size for p in (tmp_path / "s").rglob("*") if p.is_file())
    assert summary.store_bytes == on_disk
    parts = (summary.base_bytes, summary.multitask_bytes, summary.masks_bytes,
             summary.private_bytes, summary.assets_bytes, summary.other_bytes)  # fmt: skip
    assert sum(parts) == on_disk


def test_two_tasks_are_not_smaller_and_pack_says_so(tmp_path: Path) -> None:
    family = families.family(tmp_path, tasks=1)
    report = taskstore.pack(family.base_path, family.paths, tmp_path / "s", options())
    assert any("not smaller than its originals" in w for w in report.warnings)


def refuse(
    small: families.Family, tmp_path: Path, match: str, kind: type[Exception], **paths: Path
) -> None:
    """Packing `paths` fails with one line, and nothing is written."""
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(kind, match=match) as caught:
        taskstore.pack(small.base_path, paths, tmp_path / "store", options())
    assert "\n" not in str(caught.value)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_not_finite(small: families.Family, tmp_path: Path, value: float) -> None:
    state = dict(small.tasks["alpha"])
    state["norm.weight"] = state["norm.weight"].clone()
    state["norm.weight"][3] = value
    bad = families.save(tmp_path / "bad", state)
    refuse(small, tmp_path, "bad: tensor 'norm.weight' holds NaN or Inf", NotFinite, bad=bad)


def test_the_base_is_checked_too(tmp_path: Path) -> None:
    base = families.random_state(0)
    base["norm.weight"][0] = float("nan")
    family = families.Family(tmp_path, base, {"a": families.random_state(0)})
    with pytest.raises(NotFinite, match="a: tensor 'norm.weight'"):
        taskstore.pack(family.base_path, family.paths, tmp_path / "store", options())


def test_another_architecture(small: families.Family, tmp_path: Path) -> None:
    shapes = {name: (*s[:-1], s[-1] + 1) if s else s for name, s in families.SHAPES.items()}
    other = families.save(tmp_path / "other", families.random_state(1, shapes=shapes))
    refuse(
        small, tmp_path,
        r"other is not a fine-tune of base: 'embed_tokens.weight' is \[40, 17\] instead of "
        r"\[40, 16\]; .* and 2 more",
        NotOneFamily, other=other,
    )  # fmt: skip
    config = {"model_type": "gpt2"}
    gpt = families.save(tmp_path / "gpt", small.tasks["alpha"], config=config)
    refuse(small, tmp_path, "config has model_type 'gpt2' instead of 'test'", NotOneFamily, gpt=gpt)


def test_the_base_as_a_task(small: families.Family, tmp_path: Path) -> None:
    refuse(small, tmp_path, "'again' is the base itself", InputError, again=small.base_path)
    link = tmp_path / "link"
    link.symlink_to(small.base_path)
    refuse(small, tmp_path, "'again' is the base itself", InputError, again=link)
    copy = families.save(tmp_path / "copy", small.base)
    refuse(small, tmp_path, "'copy' has the base's weights", InputError, copy=copy)


def test_names(small: families.Family, tmp_path: Path) -> None:
    path = small.paths["alpha"]
    for name in ("..", "a\\b", "a\nb", "", " a", ".a", "x" * 129, "a\u202eb"):
        with pytest.raises(BadName, match="task name"):
            taskstore.pack(small.base_path, {name: path}, tmp_path / "s", options())
    with pytest.raises(BadName, match="given twice"):
        taskstore.pack(small.base_path, {"A:b": path, "a/b": path}, tmp_path / "s", options())
    with pytest.raises(InputError, match="no fine-tune"):
        taskstore.pack(small.base_path, {}, tmp_path / "s", options())
    assert list(tmp_path.iterdir()) == []


def test_an_existing_target(small: families.Family, packed: Path, tmp_path: Path) -> None:
    target = tmp_path / "store"
    shutil.copytree(packed, target)
    before = contents(target)
    with pytest.raises(TargetExists):
        taskstore.pack(small.base_path, small.paths, target, options())
    assert contents(target) == before
    two = {name: small.paths[name] for name in ("alpha", "beta")}
    taskstore.pack(small.base_path, two, target, options(overwrite=True))
    assert taskstore.open(target).tasks == ["alpha", "beta"]
    assert taskstore.open(target).manifest.chunk == CHUNK
