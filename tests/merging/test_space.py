"""The box of a search: its axes, their ends and where it starts."""

from __future__ import annotations

import pytest

from taskstore.merging import MergeOptions
from taskstore.merging.search.grids import Grids
from taskstore.merging.search.space import space

TASKS = ["a", "b"]


def test_what_is_searched() -> None:
    """Alpha, continuous options that matter, a weight per task; not whole numbers."""
    box = space(MergeOptions("wudi+lines"), Grids(), TASKS)
    assert list(box.names) == ["alpha", "ridge", "shallow", "beta", "weight a", "weight b"]
    assert box.names["alpha"] == (0, 1.5)
    usual = box.values(box.start)
    assert usual == (0.75, 1.0, 0.1, 0.5, 1.0, 1.0)  # shallow 0 is another formula


def test_what_is_given_is_fixed() -> None:
    given = MergeOptions("ties", {"density": 0.3}, alpha=0.4, weights={"a": 2})
    box = space(given, Grids(), TASKS)
    assert list(box.names) == ["weight b"]
    found = box.at((0.5,))
    assert (found.alpha, found.method_options, found.weights) == (
        0.4, {"density": 0.3}, {"a": 2, "b": 0.5}
    )  # fmt: skip


def test_grids_say_the_ends() -> None:
    grids = Grids((0.2, 0.3, 0.8), {"density": (0.1, 0.4)})
    box = space(MergeOptions("ties"), grids, ["a"])
    assert box.names == {"alpha": (0.2, 0.8), "density": (0.1, 0.4)}
    assert box.values([0, 0]) == (0.2, 0.1)
    assert box.values([1, 1]) == (0.8, 0.4)
    assert box.values([0.5, 0.5]) == pytest.approx((0.5, 0.2))  # factors: the geometric mean
    assert box.values([-3, 9]) == (0.2, 0.4)


def test_weights_of_groups_of_layers() -> None:
    box = space(MergeOptions("sum", alpha=1.0), Grids(), TASKS, layers=2)
    found = box.at((1, 2, 3, 4, 5, 6))
    assert found.weights == {"a": 1, "b": 2}
    assert found.layer_weights == ({"a": 3, "b": 4}, {"a": 5, "b": 6})
