"""Many fine-tunes that moved alike get masks, where those are near enough and smaller."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import taskstore
from taskstore import PackOptions
from taskstore.packing.auto import choose, mask_trial
from tests.support.families import Family

SHAPES = {"a.weight": (128, 192), "b.weight": (192, 128), "norm.weight": (192,)}


def alike(root: Path, tasks: int, own: float, dtype: torch.dtype) -> Family:
    """Fine-tunes of 5 % of the weights, of which they share all but `own`."""
    generator = torch.Generator().manual_seed(7)

    def drawn(scale: float) -> dict[str, torch.Tensor]:
        return {n: scale * torch.randn(s, generator=generator) for n, s in SHAPES.items()}

    base, common = drawn(0.02), drawn(0.001)
    states = {
        f"t{t:02}": {n: (base[n] + common[n] + x).to(dtype) for n, x in drawn(0.001 * own).items()}
        for t in range(tasks)
    }
    return Family(root, {n: x.to(dtype) for n, x in base.items()}, states)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_many_that_are_alike_get_masks(dtype: torch.dtype, tmp_path: Path) -> None:
    family = alike(tmp_path, 20, 0.1, dtype)
    where = family.base_path, family.paths
    report = taskstore.pack(*where, tmp_path / "auto", PackOptions())
    assert {(t.fidelity.grade, *t.tiers) for t in report.summary.tasks} == {("A", "mask")}
    (note,) = report.notes
    assert note.startswith("masks: as near as rests are, in about ")
    rests = PackOptions(residuals=dict.fromkeys(family.paths, 1.2), tiers="rest")
    other = taskstore.pack(*where, tmp_path / "rest", rests).summary
    assert report.summary.bits_per_parameter_and_task < other.bits_per_parameter_and_task


@pytest.mark.parametrize(("tasks", "own"), [(3, 0.1), (20, 1.0)])
def test_others_get_rests(tasks: int, own: float, tmp_path: Path) -> None:
    """Too few to pay for the multi-task model, or too different for one."""
    family = alike(tmp_path, tasks, own, torch.bfloat16)
    report = taskstore.pack(family.base_path, family.paths, tmp_path / "s", PackOptions())
    assert {(t.fidelity.grade, *t.tiers) for t in report.summary.tasks} == {("A", "rest")}


def test_masks_that_were_not_near_enough_are_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sample that says too little costs a second pack, and no task."""
    family = alike(tmp_path, 20, 1.0, torch.bfloat16)
    monkeypatch.setattr(choose, "measured", lambda job, *_: mask_trial.Masks(0.0, 1.0))
    report = taskstore.pack(family.base_path, family.paths, tmp_path / "s", PackOptions())
    assert {(t.fidelity.grade, *t.tiers) for t in report.summary.tasks} == {("A", "rest")}
    assert not report.notes
