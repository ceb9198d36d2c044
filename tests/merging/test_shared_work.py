"""Candidates of a search share what does not change between them, and are the models they were."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from taskstore.merging import MergeOptions, merge
from taskstore.merging.methods import tsv
from taskstore.merging.methods.trim import Trim
from taskstore.merging.scratch import KeptVector, Matrices, Prepared
from taskstore.merging.search.grid_search import search
from taskstore.merging.search.grids import Grids
from taskstore.merging.search.origins import Folders
from taskstore.merging.search.scoring import Scorer
from tests.support import families
from tests.support.families import Family

# Weights and alpha of one merge after the other; the second and third differ in alpha alone.
MERGES: tuple[tuple[dict[str, float], float], ...] = (
    ({}, 1.0),
    ({"alpha": 0.5, "beta": -1.5}, 1.0),
    ({"alpha": 0.5, "beta": -1.5}, 0.5),
    ({"alpha": 0.0}, 1.0),
)


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Family:
    return families.family(tmp_path_factory.mktemp("wide"), 3, torch.float32)


@pytest.mark.parametrize(
    "method",
    [
        "wudi",
        "tsv",
        "ties",
        "dare+ties",
        "wudi+lines",
        "trust_region+wudi",
        "wudi+svc",
        "magnitude",
    ],
)
def test_weights_after_weights_make_the_models_that_they_make_alone(
    wide: Family, tmp_path: Path, method: str
) -> None:
    kept = KeptVector(tmp_path / "vector", shares=True)
    for number, (weights, alpha) in enumerate(MERGES):
        own = MergeOptions(method, weights=weights, alpha=alpha, chunk=512, jobs=2)
        found = []
        for keeps in (kept, None):
            target = tmp_path / f"{number} {keeps is None}"
            merge(wide.base_path, wide.paths, target, own, kept=keeps)
            found.append(load_file(target / "model.safetensors"))
        for name, value in found[1].items():
            moved = (value - wide.base[name]).norm()
            assert (found[0][name] - value).norm() <= 1e-5 * moved, name
    kept.close()


def counted(patch: pytest.MonkeyPatch, owner: Any, name: str) -> list[str]:
    """The calls of a function from now on."""
    calls, function = list[str](), getattr(owner, name)

    def call(*args: Any, **named: Any) -> Any:
        calls.append(name)
        return function(*args, **named)

    patch.setattr(owner, name, call)
    return calls


def test_weights_take_no_new_singular_values(
    wide: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = counted(monkeypatch, tsv, "svd")
    kept = KeptVector(tmp_path / "vector", shares=True)
    after = []
    for number, weight in enumerate((1.0, 0.5, 2.0)):
        own = MergeOptions("tsv", weights={"alpha": weight})
        merge(wide.base_path, wide.paths, tmp_path / str(number), own, kept=kept)
        after.append(len(calls))
    kept.close()
    assert after[0] > 0
    assert after == [after[0]] * 3


def test_a_grid_of_densities_counts_upper_halves_once(
    wide: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One count that all share, and one per density."""
    calls = counted(monkeypatch, Trim, "_count")
    grids = Grids(alpha=(0.5, 1.0), options={"density": (0.1, 0.2, 0.4)})
    scorer = Scorer(lambda model, _: float(model.exists()), scratch=tmp_path)
    search(
        Folders(wide.base_path, wide.paths), tmp_path / "out", MergeOptions("ties"), grids, scorer
    )
    assert len(calls) <= 1 + 3


def test_what_does_not_fit_on_the_disk_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of 128 bytes is taken, whatever the size of each part."""
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Disk", (), {"free": 128}))
    prepared = Prepared(tmp_path)
    for key in range(3):
        prepared.put(key, np.arange(key, key + 4))
    assert prepared.get(1).tolist() == [1, 2, 3, 4]  # type: ignore[union-attr]
    assert prepared.get(2) is None


def test_a_merged_matrix_stays_until_its_last_block_whatever_came_between() -> None:
    """A worker may hold a block of the first while others merge many more."""
    matrices, last = Matrices(), np.arange(4, dtype=np.float32)
    matrices.put("slow", last)
    assert matrices.take("slow", 0, 3).tolist() == [0, 1, 2]
    for name in "abcdef":
        matrices.put(name, np.zeros(4, np.float32))
        matrices.take(name, 0, 4)
        assert name not in matrices
    assert matrices.take("slow", 3, 1).tolist() == [3]
    assert "slow" not in matrices


def test_matrices_of_which_only_samples_are_taken_do_not_add_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Matrices, "SMALL", 5)
    matrices = Matrices()
    for name in "abcdef":
        matrices.put(name, np.zeros(10, np.float32))
        matrices.take(name, 0, 1)
    assert [name for name in "abcdef" if name in matrices] == ["e", "f"]
