"""A sample of rows tells the error of all weights."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest
import torch

import taskstore
from taskstore import PackOptions
from taskstore.format.tiers.rest import row_length
from taskstore.models.family import open_family
from taskstore.packing import plan as planning
from taskstore.packing.auto import sample
from tests.support.families import Family, options

SHAPES = {"embed.weight": (3000, 64), "mlp.weight": (256, 512), "conv.weight": (64, 8, 3, 3),
          "norm.weight": (64,)}  # fmt: skip


@pytest.fixture(scope="module")
def uneven(tmp_path_factory: pytest.TempPathFactory) -> Family:
    """Most rows of the embedding hardly move, as of tokens that a fine-tune seldom sees."""
    generator = torch.Generator().manual_seed(3)
    base = {n: 0.02 * torch.randn(s, generator=generator) for n, s in SHAPES.items()}
    task = {n: x + 0.002 * torch.randn(x.shape, generator=generator) for n, x in base.items()}
    rows = torch.rand(3000, 1, generator=generator) ** 4
    task["embed.weight"] = base["embed.weight"] + rows * (
        task["embed.weight"] - base["embed.weight"]
    )
    return Family(tmp_path_factory.mktemp("uneven"), base, {"only": task})


def test_rows_are_whole_and_of_every_tensor(
    uneven: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sample, "SIZE", 1 << 16)
    monkeypatch.setattr(sample, "RUN", 1 << 10)
    with closing(open_family(uneven.base_path, uneven.paths)) as family:
        found = sample.pieces(family, planning.make(family, PackOptions()), 1 << 18)
    assert {piece.name for piece in found} == set(SHAPES)
    looked, stands = dict.fromkeys(SHAPES, 0), dict.fromkeys(SHAPES, 0.0)
    for piece in found:
        for run in piece.runs:
            columns = row_length(run.info.shape) or 1
            assert run.start % columns == run.stop % columns == 0 <= run.start < run.stop
            assert run.stop <= run.info.numel
            looked[piece.name] += run.stop - run.start
            stands[piece.name] += piece.weight * (run.stop - run.start)
    assert stands == pytest.approx({n: x.numel() for n, x in uneven.base.items()})
    assert sum(looked.values()) < 1.3 * (1 << 16)


def test_the_sample_says_what_all_weights_say(
    uneven: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sample, "SIZE", 1 << 16)
    monkeypatch.setattr(sample, "RUN", 1 << 10)
    taskstore.pack(uneven.base_path, uneven.paths, tmp_path / "s", PackOptions(tiers="auto:0.02"))
    found = taskstore.open(tmp_path / "s").fidelity("only")
    assert found.error is not None and 0.018 < found.error <= 0.02


def test_a_small_family_is_looked_at_whole(small: Family) -> None:
    with closing(open_family(small.base_path, small.paths)) as family:
        found = sample.pieces(family, planning.make(family, options(tiers="rest")), 256)
    every = sum(x.numel() for x in small.base.values())
    assert sum(run.stop - run.start for piece in found for run in piece.runs) == every
    assert {piece.weight for piece in found} == {1.0}
