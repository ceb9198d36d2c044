"""What is said of a served task is that of the tier that is served."""

from __future__ import annotations

import json
from dataclasses import asdict

import msgspec
import pytest
from taskstore_serving.checks import kept

import taskstore
from taskstore.format.manifest import Score
from taskstore.packing.revise import record
from taskstore.store import Store
from tests.support import families


@pytest.fixture(scope="module")
def both(small: families.Family, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store with masks and rests, alpha scored at both, beta at the best alone."""
    target = tmp_path_factory.mktemp("kept") / "store"
    options = families.options(tiers="mask,rest", residual=2.0)
    taskstore.pack(small.base_path, small.paths, target, options)
    scores = {
        "alpha": Score(rebuilt=0.9, original=0.95, base=0.1, lower={"mask": 0.5}),
        "beta": Score(rebuilt=0.8),
    }
    return record(taskstore.open(target), "digits", scores)


@pytest.mark.parametrize("tier", ["mask", "rest"])
def test_fidelity_is_that_of_the_tier(both: Store, tier: str) -> None:
    wanted = both.fidelity("alpha", tier)
    assert wanted != both.fidelity("alpha", "rest" if tier == "mask" else "mask")
    told = kept.kept(both.manifest, "alpha", tier)
    assert told["fidelity"] == asdict(wanted) == json.loads(json.dumps(told["fidelity"]))
    assert kept.words(both.manifest, "alpha", tier).startswith(wanted.words)
    assert wanted.kind == "approximate"


def test_scores_are_those_of_the_tier(both: Store) -> None:
    def told(task: str, tier: str) -> object:
        return kept.kept(both.manifest, task, tier)["scores"]

    assert told("alpha", "rest") == {"digits": {"served": 0.9, "original": 0.95, "base": 0.1}}
    assert told("alpha", "mask") == {"digits": {"served": 0.5, "original": 0.95, "base": 0.1}}
    assert told("beta", "rest") == {"digits": {"served": 0.8, "original": None, "base": None}}
    assert told("beta", "mask") is None
    assert told("gamma", "rest") is None
    assert kept.words(both.manifest, "alpha", "mask").endswith("; digits 0.5 (original 0.95)")
    assert kept.words(both.manifest, "beta", "rest").endswith("; digits 0.8")
    assert kept.words(both.manifest, "gamma", "rest").endswith("; no score recorded")


def test_a_store_of_before_is_not_measured(both: Store) -> None:
    old = {
        name: msgspec.structs.replace(task, fidelity=None)
        for name, task in both.manifest.tasks.items()
    }
    manifest = msgspec.structs.replace(both.manifest, tasks=old)
    assert kept.kept(manifest, "gamma", "mask")["fidelity"]["kind"] == "not measured"
    assert not kept.is_safe(manifest, "gamma", "mask")
    assert kept.is_safe(manifest, "alpha", "mask")  # its score is known
