"""Statistics of a model's inputs weigh its factors; others are refused by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.numpy import save_file

import taskstore
from taskstore.errors import FormatError, InputError, OptionError, StatisticsError
from taskstore.packing.changes.options import AddOptions
from taskstore.packing.low_rank.components import components, factored
from taskstore.packing.low_rank.importance import importance
from taskstore.statistics import Statistics
from taskstore.store.verify import verify
from tests.golden.make_v6_factored import of_low_rank
from tests.merging.test_needed_statistics import measured
from tests.support import families, forge
from tests.support.families import contents, options

NAME = "model.low.weight"
SHAPES = {NAME: (150, 200), "model.norm.weight": (200,)}


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> families.Family:
    base = families.random_state(0, torch.bfloat16, shapes=SHAPES)
    tasks = {name: of_low_rank(base, seed) for seed, name in enumerate(("one", "two"))}
    return families.Family(tmp_path_factory.mktemp("weighed"), base, tasks)


@pytest.fixture(scope="module")
def files(family: families.Family, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("files")
    paths = {name: folder / f"{name}.safetensors" for name in ("", "one")}
    measured(paths[""], family.base_path, 1, {"gram": None})
    measured(paths["one"], family.paths["one"], 2, {"gram": None})
    return paths


def packed(family: families.Family, target: Path, **changes: object) -> taskstore.Store:
    how = {"tiers": "rest", "residual": 0.6, "chunk": 1 << 13, **changes}
    taskstore.pack(family.base_path, family.paths, target, options(**how))
    return taskstore.open(target)


def inputs(columns: int) -> NDArray[np.float32]:
    """Gram matrix of inputs that are mostly a tenth of the columns."""
    random = np.random.default_rng(0)
    sizes = np.where(random.permutation(columns) < columns // 10, 10.0, 0.1)
    x = random.standard_normal((4 * columns, columns)) * sizes
    gram_NN: NDArray[np.float32] = (x.T @ x / len(x)).astype(np.float32)
    return gram_NN


def test_factors_of_weighed_columns_lose_less_of_the_outputs(tmp_path: Path) -> None:
    """The error in the outputs at the same rank and step, for more error in the weights."""
    base = families.random_state(0, torch.float32, shapes={"w": (150, 200)})
    model = families.Family(tmp_path / "f", base, {"t": base}).paths["t"]
    path, gram_NN = tmp_path / "s", inputs(200)
    measured(path, model, 0, {"gram": None})
    with Statistics(path) as old:
        about = old.about
    save_file({"gram/w": gram_NN}, path, metadata=about.metadata())
    random = np.random.default_rng(1)
    left, right = random.standard_normal((150, 20)), random.standard_normal((20, 200))
    x_MN = (left @ right).astype(np.float32)
    errors, plain = [], []
    for weights in (None, importance(path, "w", 200)):
        parts = components(x_MN, rank=6, importance=weights)
        low_rank = factored(parts, 1.0)
        part_N = np.zeros(x_MN.size, np.float32)
        low_rank.add(0, part_N)
        e_MN = (part_N.reshape(x_MN.shape) - x_MN).astype(np.float64)
        errors.append(float(np.einsum("ij,jk,ik->", e_MN, gram_NN, e_MN)))
        plain.append(float(np.square(e_MN).sum()))
    assert errors[1] < 0.9 * errors[0]
    assert plain[1] > plain[0]


def test_the_manifest_tells_and_no_reader_needs_them(
    family: families.Family, files: dict[str, Path], tmp_path: Path
) -> None:
    """A task's own file counts before the base's, which counts for all others."""
    bare = packed(family, tmp_path / "bare")
    assert all(task.statistics is None for task in bare.manifest.tasks.values())
    store = packed(family, tmp_path / "s", statistics={"one": files["one"]})
    tasks = store.manifest.tasks
    assert tasks["one"].statistics is not None
    assert (tasks["one"].statistics.examples, tasks["two"].statistics) == (8, None)
    assert verify(store, deep=True).ok
    section = "tasks/{}/rest.safetensors"
    for task, same in (("one", False), ("two", True)):
        own = (bare.path / section.format(task), store.path / section.format(task))
        assert (own[0].read_bytes() == own[1].read_bytes()) is same
    every = packed(family, tmp_path / "e", statistics=files)
    assert all(task.statistics for task in every.manifest.tasks.values())
    path = section.format("one")
    assert (every.path / path).read_bytes() == (store.path / path).read_bytes()


def test_auto_and_added_tasks_take_them(
    family: families.Family, files: dict[str, Path], tmp_path: Path
) -> None:
    one = {"one": family.paths["one"]}
    how = options(tiers="auto:0.2", statistics={"one": files["one"]})
    taskstore.pack(family.base_path, one, tmp_path / "auto", how)
    store = taskstore.open(tmp_path / "auto")
    assert (store.manifest.tasks["one"].bits or 9) < 2
    assert store.manifest.tasks["one"].statistics
    two = {"two": family.paths["two"]}
    asked = AddOptions(tiers="rest", residual=0.6, statistics={"": files[""]})
    taskstore.add(tmp_path / "auto", two, asked)
    assert taskstore.open(tmp_path / "auto").manifest.tasks["two"].statistics
    before = contents(tmp_path / "auto")
    for wrong, said in (("one", "no task that joins"), ("three", "no task that joins")):
        asked = AddOptions(residual=0.6, statistics={wrong: files["one"]})
        with pytest.raises(OptionError, match=said):
            taskstore.replace(tmp_path / "auto", two, asked)
    assert contents(tmp_path / "auto") == before


def test_what_does_nothing_is_refused(family: families.Family, files: dict[str, Path]) -> None:
    one = {"one": files["one"]}
    for more, said in (
        ({"tiers": "exact"}, "statistics does nothing with tiers exact"),
        ({"tiers": "rest"}, "'one' do nothing for a rest of 2 bits"),
        ({"tiers": "rest", "residuals": {"one": 2.5}}, "for a rest of 2.5 bits"),
        ({"tiers": "mask,rest", "residual": 1.0}, "method 'sum' uses no statistics, and no rest"),
    ):
        with pytest.raises(OptionError, match=said):
            options(statistics=one, **more)
    with pytest.raises(OptionError, match="no task of this family"):
        taskstore.pack(
            family.base_path, family.paths, "never",
            options(tiers="rest", residual=1.0, statistics={"three": files["one"]}),
        )  # fmt: skip


def test_statistics_of_another_model_or_kind_are_refused(
    family: families.Family, files: dict[str, Path], tmp_path: Path
) -> None:
    """By digest, by names and by shapes; nothing is written."""
    fisher, damaged = tmp_path / "fisher", tmp_path / "damaged"
    measured(fisher, family.paths["one"], 0, {"fisher": None})
    damaged.write_bytes(files["one"].read_bytes()[:-4])
    base = families.random_state(0, torch.bfloat16, shapes={NAME: (150, 64)})
    narrow, wide = tmp_path / "narrow", families.Family(tmp_path / "f", base, {"t": base})
    measured(narrow, wide.paths["t"], 0, {"gram": None})
    for path, error, said in (
        (files[""], StatisticsError, "another model .base., not of one: its weights are"),
        (narrow, StatisticsError, r"another model .t., not of one: gram of .* is \[64, 64\]"),
        (fisher, InputError, "has fisher of one and not the gram that weighs rests"),
        (damaged, StatisticsError, "damaged"),
        (tmp_path / "none", StatisticsError, "cannot be read"),
    ):
        with pytest.raises(error, match=said):
            packed(family, tmp_path / "s", statistics={"one": path})
        assert not (tmp_path / "s").exists()


def test_matrices_without_use(family: families.Family, tmp_path: Path) -> None:
    """Of other widths, stored (I, O), or of layers that no input reached: all columns alike."""
    path = tmp_path / "s"
    measured(path, family.paths["one"], 0, {"gram": None}, transposed=(NAME,))
    assert importance(path, NAME, 200) is None
    measured(path, family.paths["one"], 0, {"gram": None})
    assert importance(path, NAME, 100) is None
    assert importance(path, "model.norm.weight", 200) is None
    assert importance(None, NAME, 200) is None


def test_hostile_manifests_are_refused(
    family: families.Family, files: dict[str, Path], tmp_path: Path
) -> None:
    packed(family, tmp_path / "s", statistics={"one": files["one"]})

    def fine(document: forge.Document) -> None:
        document["tasks"]["one"]["statistics"]["examples"] = 0

    def dense(document: forge.Document) -> None:
        for entry in document["tasks"]["one"]["tensors"].values():
            entry.pop("codec", None)

    for change in (fine, dense):
        before = (tmp_path / "s" / forge.MANIFEST).read_bytes()
        forge.edit(tmp_path / "s", change)
        with pytest.raises(FormatError):
            taskstore.open(tmp_path / "s")
        (tmp_path / "s" / forge.MANIFEST).write_bytes(before)
