"""The target of a merge: no input is ever replaced, by whatever name it goes."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

import taskstore
from taskstore.errors import OutputError
from taskstore.merging import MergeOptions, merge, merge_store
from taskstore.merging.search.origins import Stored
from taskstore.packing.driver import pack
from taskstore.packing.options import PackOptions
from tests.support.families import Family, family

OVER = MergeOptions("sum", overwrite=True)


def earlier(small: Family, target: Path) -> Path:
    """A merged model, which --overwrite may replace."""
    merge(small.base_path, small.paths, target, OVER)
    return target


def test_a_merged_model_is_replaced_and_may_lie_in_an_input(tmp_path: Path) -> None:
    own = family(tmp_path)
    inside = earlier(own, own.base_path / "merged")
    merge(own.base_path, own.paths, inside, replace(OVER, alpha=0.5))
    assert "alpha 0.5" in (inside / "README.md").read_text()


def test_a_model_whose_files_are_links_into_the_target(small: Family, tmp_path: Path) -> None:
    target, linked = earlier(small, tmp_path / "merged"), tmp_path / "linked"
    linked.mkdir()
    for file in target.iterdir():
        (linked / file.name).symlink_to(file)
    before = (target / "model.safetensors").read_bytes()
    with pytest.raises(OutputError, match=f"holds {re.escape(str(linked))}"):
        merge(small.base_path, {"linked": linked}, target, OVER)
    assert (target / "model.safetensors").read_bytes() == before


def test_statistics_that_lie_in_the_target(small: Family, tmp_path: Path) -> None:
    target = earlier(small, tmp_path / "merged")
    file = target / "alpha.safetensors"
    file.write_bytes(b"")
    with pytest.raises(OutputError, match=r"holds .*alpha\.safetensors"):
        merge(small.base_path, small.paths, target, replace(OVER, statistics={"alpha": file}))
    assert file.exists()


@pytest.mark.parametrize("recorded", [True, False])
def test_the_base_that_a_store_references(small: Family, tmp_path: Path, recorded: bool) -> None:
    base = earlier(small, tmp_path / "base")
    pack(base, small.paths, tmp_path / "store", PackOptions(base="reference"))
    store = taskstore.open(tmp_path / "store", base=None if recorded else base)
    with pytest.raises(OutputError, match="which is merged"):
        merge_store(store, base, OVER)
    with pytest.raises(OutputError, match="which is merged"):
        Stored(store).check(base, OVER)
