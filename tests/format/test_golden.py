"""Stores of earlier releases stay readable, to the last bit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import taskstore
from taskstore.store.verify import verify
from tests.golden.make_v1 import digests
from tests.golden.make_v3 import file_digests
from tests.golden.make_v3_tiers import MADE, tier_digests
from tests.golden.make_v4 import MADE as V4
from tests.golden.make_v4 import said_of
from tests.golden.make_v5_adapters import MADE as ADAPTERS
from tests.golden.make_v5_adapters import adapter_digests
from tests.golden.make_v5_chains import MADE as CHAINS
from tests.golden.make_v5_chains import parents_of
from tests.golden.make_v5_changes import MADE as CHANGES
from tests.golden.make_v5_changes import said_of as changes_of
from tests.support import ROOT

GOLDEN = ROOT / "tests" / "golden"
STORES = sorted(path.parent for path in GOLDEN.glob("v*/*/taskstore.json"))


@pytest.mark.parametrize("path", STORES, ids=lambda p: f"{p.parent.name}-{p.name}")
def test_it_reads_as_it_was_written(path: Path) -> None:
    expected = json.loads((path.parent / "expected.json").read_text())[path.name]
    store = taskstore.open(path)
    assert verify(store, deep=True).ok
    assert digests(store) == expected


def test_its_files_come_back_as_they_were(tmp_path: Path) -> None:
    expected = json.loads((GOLDEN / "v3" / "files.json").read_text())["bf16-shards"]
    assert file_digests(taskstore.open(GOLDEN / "v3" / "bf16-shards"), tmp_path) == expected


@pytest.mark.parametrize("name", V4)
def test_version_4_says_what_it_said(name: str, tmp_path: Path) -> None:
    """Own names, weights beside the model, fidelity, cosines and scores with a count."""
    store = taskstore.open(GOLDEN / "v4" / name)
    files = json.loads((GOLDEN / "v4" / "files.json").read_text())[name]
    assert file_digests(store, tmp_path) == files
    tiers = json.loads((GOLDEN / "v4" / "tiers.json").read_text())[name]
    assert tier_digests(store) == tiers
    said = json.loads((GOLDEN / "v4" / "said.json").read_text())[name]
    assert said_of(store) == said


@pytest.mark.parametrize("name", CHAINS)
def test_version_5_has_parents(name: str, tmp_path: Path) -> None:
    store = taskstore.open(GOLDEN / "v5-chains" / name)
    for what, found in (
        ("files", file_digests(store, tmp_path)),
        ("tiers", tier_digests(store)),
        ("parents", parents_of(store)),
    ):
        assert json.loads((GOLDEN / "v5-chains" / f"{what}.json").read_text())[name] == found


@pytest.mark.parametrize("name", CHANGES)
def test_version_5_was_changed_and_says_how(name: str, tmp_path: Path) -> None:
    """Tasks that came later lie in folders that are named by their content."""
    store = taskstore.open(GOLDEN / "v5-changes" / name)
    for what, found in (
        ("files", file_digests(store, tmp_path)),
        ("tiers", tier_digests(store)),
        ("said", changes_of(store)),
    ):
        assert json.loads((GOLDEN / "v5-changes" / f"{what}.json").read_text())[name] == found


@pytest.mark.parametrize("name", ADAPTERS)
def test_version_5_gives_adapters_back(name: str, tmp_path: Path) -> None:
    expected = json.loads((GOLDEN / "v5-adapters" / "files.json").read_text())[name]
    store = taskstore.open(GOLDEN / "v5-adapters" / name)
    assert adapter_digests(store, tmp_path) == expected


@pytest.mark.parametrize("name", MADE)
def test_every_tier_reads_as_it_was_written(name: str) -> None:
    expected = json.loads((GOLDEN / "v3-tiers" / "tiers.json").read_text())[name]
    assert tier_digests(taskstore.open(GOLDEN / "v3-tiers" / name)) == expected


def test_there_are_golden_stores() -> None:
    assert {path.parent.name for path in STORES} >= {
        "v1",
        "v2",
        "v3",
        "v3-tiers",
        "v4",
        "v5-chains",
        "v5-changes",
        "v5-adapters",
        "v5-sparse",
        "v6-factored",
        "v6-low-rank",
    }
    assert len(STORES) >= 20
