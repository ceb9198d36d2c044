"""Compositions through a whole merge: the same as by blocks in memory, and what memory is taken."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from taskstore.errors import OptionError
from taskstore.merging import MergeOptions, merge
from taskstore.merging.methods import make
from taskstore.merging.methods.matrix_memory import KEPT
from taskstore.packing.driver import pack
from taskstore.packing.options import PackOptions
from tests.cli.test_cli import run
from tests.support.blocks import Models, merge_models

SHAPES = {"h.0.w": (24, 40), "h.1.w": (40, 24), "h.1.b": (300,), "head": (16, 24)}


@pytest.fixture
def models(tmp_path: Path) -> dict[str, Path]:
    """A base of zeros and three fine-tunes, fp32."""
    rng = np.random.default_rng(4)
    paths = {}
    for name, size in (("base", 0), ("one", 1), ("three", 1), ("two", 1)):
        (tmp_path / name).mkdir()
        state = {n: size * torch.from_numpy(rng.standard_normal(s, "f4"))
                 for n, s in SHAPES.items()}  # fmt: skip
        save_file(state, tmp_path / name / "model.safetensors")
        paths[name] = tmp_path / name
    return paths


@pytest.mark.parametrize(
    "method",
    ["trust_region+wudi+lines", "ties+svc", "tvq+tsv+svc+lines", "dare+actmat"],
)
def test_a_merge_of_files_is_that_of_vectors_in_memory(
    models: dict[str, Path], tmp_path: Path, method: str
) -> None:
    """In chunks of 100 elements and two threads."""
    paths = {name: path for name, path in models.items() if name != "base"}
    options = MergeOptions(method, chunk=100, jobs=2, unrelated=True)
    merge(models["base"], paths, tmp_path / "out", options)
    found = load_file(tmp_path / "out" / "model.safetensors")
    tasks = [{n: t.numpy() for n, t in load_file(p / "model.safetensors").items()}
             for p in paths.values()]  # fmt: skip
    wanted = merge_models(method, Models(tasks, names=list(paths)))
    for name, tau in wanted.items():
        np.testing.assert_allclose(found[name], tau, rtol=1e-5, atol=1e-6, err_msg=name)


def test_a_matrix_that_does_not_fit_is_refused_before_anything_is_merged(
    models: dict[str, Path], tmp_path: Path
) -> None:
    rows, columns = 40, 3000
    for path in models.values():
        file = path / "model.safetensors"
        save_file({**load_file(file), "wide": torch.zeros(rows, columns)}, file)
    size = KEPT * 4 * rows * columns + make("wudi").matrix_bytes((rows, columns), 3)
    paths = {name: path for name, path in models.items() if name != "base"}
    small = MergeOptions("trust_region+wudi", max_memory=256 << 20, unrelated=True)
    problem = (
        r"takes 'wide' \(40 x 3000\) whole and needs (\d+) MiB .* 256 MiB is too little, (\d+)"
    )
    with pytest.raises(OptionError, match=problem) as caught:
        merge(models["base"], paths, tmp_path / "out", small)
    assert not (tmp_path / "out").exists()
    assert f"needs {-(-(size + 16 * rows * columns) >> 20)} MiB" in str(caught.value)
    with pytest.raises(OptionError, match=r"takes 'wide'"):
        pack(models["base"], paths, tmp_path / "store",
             PackOptions(tiers="mask", method="wudi", max_memory=256 << 20))  # fmt: skip
    merge(models["base"], paths, tmp_path / "out",
          MergeOptions("trust_region+sum", max_memory=256 << 20, unrelated=True))  # fmt: skip


def test_methods_lists_the_grammar_and_the_memory() -> None:
    listed = run("methods").output
    assert "--method [BEFORE+...]METHOD[+AFTER...], for example trust_region+wudi+lines" in listed
    assert (
        "BEFORE: dare, breadcrumbs, della, trust_region, tvq" in listed
        and "AFTER: consensus, lines, svc" in listed
    )
    one = run("methods", "trust_region+wudi+lines").output
    assert [line.split(":")[0] for line in one.splitlines() if line[0] != " "] == [
        "wudi", "trust_region", "lines"]  # fmt: skip
    assert "memory: one matrix and Gram matrices of its inputs" in one
    assert run("methods", "dare").output.startswith("dare: DARE")
