"""Methods that need statistics, or want matrices whole: merged and packed from files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from safetensors.torch import load_file

import taskstore
from taskstore.errors import InputError, StatisticsError
from taskstore.executors import threads
from taskstore.merging import MergeOptions, merge
from taskstore.models import digest_of, open_checkpoint
from taskstore.statistics import About
from tests.cli.test_cli import run
from tests.support import families, oracle, oracle_merge
from tests.support.families import Family, State

Arrays = dict[str, np.ndarray[Any, np.dtype[np.float32]]]
SQUARE = "layers.0.square.weight"
SHAPES = {**families.SHAPES, SQUARE: (16, 16)}


def measured(
    path: Path, model: Path, seed: int, kinds: Mapping[str, Any], transposed: tuple[str, ...] = ()
) -> Arrays:
    """A statistics file of random values about a model folder."""
    rng, arrays = np.random.default_rng(seed), {}
    checkpoint = open_checkpoint(model)
    for name, info in checkpoint.tensors.items():
        for kind in set(kinds) - {"gram"}:
            arrays[f"{kind}/{name}"] = np.asarray(rng.random(info.shape) ** 4, np.float32)
        if "gram" in kinds and name.endswith("weight") and len(info.shape) == 2:
            x = rng.standard_normal((99, info.shape[0 if name in transposed else 1]))
            arrays[f"gram/{name}"] = (x.T @ x / 99).astype(np.float32)
    about = About(
        name=model.name, model=digest_of(checkpoint, threads(1)),
        data="0" * 64, examples=8, positions=9,
        truncated=0, max_length=64, loss="test", labels="data", samples=0, seed=0,
        transposed=transposed,
    )  # fmt: skip
    checkpoint.close()
    save_file(arrays, path, metadata=about.metadata())
    return arrays


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Family:
    return families.family(tmp_path_factory.mktemp("family"), 3, torch.float32, SHAPES)


def files_of(
    family: Family, folder: Path, *kinds: str, transposed: tuple[str, ...] = ()
) -> tuple[dict[str, Path], list[Arrays]]:
    paths, found = {}, []
    for i, (name, model) in enumerate(sorted(family.paths.items())):
        paths[name] = folder / f"{name}.safetensors"
        arrays = measured(paths[name], model, i, dict.fromkeys(kinds), transposed)
        found.append({k.partition("/")[2]: v for k, v in arrays.items()})
    return paths, found


def arrays_of(state: State) -> Any:
    return {name: tensor.numpy() for name, tensor in state.items()}


def vectors_of(family: Family) -> list[Any]:
    return [arrays_of(v) for v in oracle.task_vectors(family.base, family.tasks).values()]


def check(family: Family, target: Path, wanted: Mapping[str, Any], atol: float = 1e-7) -> None:
    state = load_file(target / "model.safetensors")
    for name, base in family.base.items():
        expected = base.double() + torch.as_tensor(wanted[name])
        torch.testing.assert_close(state[name].double(), expected, rtol=1e-5, atol=atol)


def test_fisher(family: Family, tmp_path: Path) -> None:
    paths, fishers = files_of(family, tmp_path, "fisher")
    options = MergeOptions("fisher", statistics=paths, weights={"beta": 2.0}, chunk=512)
    merge(family.base_path, family.paths, tmp_path / "out", options)
    wanted = oracle_merge.fisher(vectors_of(family), fishers, [1, 2, 1], 1e-6)
    check(family, tmp_path / "out", wanted)


def test_gradient_matching_with_the_base_s(family: Family, tmp_path: Path) -> None:
    paths, hessians = files_of(family, tmp_path, "hessian")
    paths[""] = tmp_path / "base.safetensors"
    base = measured(paths[""], family.base_path, 9, {"hessian": None})
    own = {name.partition("/")[2]: value for name, value in base.items()}
    values = {"alpha": 0.5, "delta0": 1e-3, "s0": 2.0}
    options = MergeOptions("gradient", values, statistics=paths, chunk=512)
    merge(family.base_path, family.paths, tmp_path / "out", options)
    vectors = vectors_of(family)
    check(
        family, tmp_path / "out", oracle_merge.gradient(vectors, hessians, own, [1, 1, 1], values)
    )


@pytest.mark.parametrize("transposed", [(), (SQUARE, "layers.1.mlp.weight")])
def test_regmean(family: Family, tmp_path: Path, transposed: tuple[str, ...]) -> None:
    """Weights that are stored (I, O) are merged as if they were (O, I)."""
    paths, grams = files_of(family, tmp_path, "gram", transposed=transposed)
    options = MergeOptions("regmean", {"a": 0.8}, statistics=paths, chunk=512)
    merge(family.base_path, family.paths, tmp_path / "out", options)

    def turned(arrays: Any) -> Any:
        return {n: v.T if n in transposed else v for n, v in arrays.items()}

    vectors = [turned(vector) for vector in vectors_of(family)]
    base = turned(arrays_of(family.base))
    wanted = oracle_merge.regmean(vectors, grams, base, [1, 1, 1], 0.8)
    check(family, tmp_path / "out", turned(wanted))


@pytest.mark.parametrize("jobs", [1, 3])
def test_tsv_in_blocks(family: Family, tmp_path: Path, jobs: int) -> None:
    """Matrices that are wanted whole come the same for any block and number of threads."""
    options = MergeOptions("tsv", chunk=64, jobs=jobs)
    merge(family.base_path, family.paths, tmp_path / "out", options)
    # whitening multiplies the rounding of a float32 SVD, which differs between builds of LAPACK
    check(family, tmp_path / "out", oracle_merge.tsv(vectors_of(family)), atol=1e-6)


@pytest.mark.parametrize("method", ["fisher", "regmean", "tsv", "magnitude", "dare+ties", "emr"])
def test_what_packs(family: Family, tmp_path: Path, method: str) -> None:
    """The store's multi-task model is the merged model, to its own rounding."""
    kinds = {"fisher": "fisher", "regmean": "gram"}
    paths = files_of(family, tmp_path, kinds[method])[0] if method in kinds else {}
    options = families.options(method=method, statistics=paths, lam=0.0)
    taskstore.pack(family.base_path, family.paths, tmp_path / "store", options)
    made = MergeOptions(method, {"mean": 0} if "ties" in method else {}, statistics=paths)
    merge(family.base_path, family.paths, tmp_path / "out", made)
    store, merged = (
        taskstore.open(tmp_path / "store"),
        load_file(tmp_path / "out" / "model.safetensors"),
    )
    assert store.manifest.merge.method == method
    state = store.state_dict("alpha")
    base, alpha = family.base, family.tasks["alpha"]
    for name in merged:
        tau, w1 = merged[name] - base[name], state[name] != base[name]
        moved = (alpha[name] != base[name]) & (tau != 0)
        assert (w1 <= moved).all()
        assert w1.sum() >= 0.98 * moved.sum(), name  # bf16 rounding may leave the base
        torch.testing.assert_close((state[name] - base[name])[w1], tau[w1], rtol=5e-3, atol=1e-7)


def test_methods_that_need_what_is_not_given(family: Family, tmp_path: Path) -> None:
    paths, _ = files_of(family, tmp_path, "fisher")

    def refused(method: str, error: type[Exception], message: str, **given: Any) -> None:
        with pytest.raises(error, match=message):
            merge(family.base_path, family.paths, tmp_path / "out", MergeOptions(method, **given))
        assert not (tmp_path / "out").exists()

    some = {name: path for name, path in paths.items() if name != "beta"}
    refused("fisher", InputError, "needs statistics of 'alpha': make them with `taskstore measure")
    refused("fisher", InputError, "needs statistics of 'beta'", statistics=some)
    refused("regmean", InputError, "has fisher of alpha and not the gram", statistics=paths)
    refused("sum", InputError, "uses no statistics", statistics=paths)
    swapped = {**paths, "alpha": paths["beta"]}
    refused("fisher", StatisticsError, "another model", statistics=swapped)
    refused(
        "fisher", InputError, "'zeta', which is none", statistics={**paths, "zeta": paths["beta"]}
    )
    refused(
        "fisher", StatisticsError, "cannot be read", statistics={**paths, "beta": tmp_path / "no"}
    )
    with pytest.raises(InputError, match="makes no multi-task vector that masks can use"):
        families.options(method="average")
    with pytest.raises(InputError, match="needs statistics of 'alpha'"):
        taskstore.pack(
            family.base_path, family.paths, tmp_path / "out", families.options(method="fisher")
        )
    assert not (tmp_path / "out").exists()


def test_the_commands(family: Family, tmp_path: Path) -> None:
    paths, _ = files_of(family, tmp_path, "fisher")
    words = [w for name, path in paths.items() for w in ("--statistics", f"{name}={path}")]
    models = family.paths.values()
    given: Callable[..., Any] = lambda command, out: run(  # noqa: E731
        command, family.base_path, *models, "--method", "fisher", *words, "-o", tmp_path / out
    )
    assert given("merge", "merged").exit_code == 0
    assert given("pack", "store").exit_code == 0
    done = run("merge", family.base_path, *models, "--method", "fisher", "-o", tmp_path / "no")
    assert done.exit_code == 1
    assert "taskstore measure" in done.output
    words = ["--statistics", f"alpha={paths['alpha']}"] * 2
    done = run(
        "merge", family.base_path, *models, "--method", "fisher", *words, "-o", tmp_path / "x"
    )
    assert "given twice" in done.output
