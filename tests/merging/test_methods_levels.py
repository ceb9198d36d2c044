"""Merge methods at each level of the processor: the same bits, those that the other tests check."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from taskstore.merging.methods import philox
from taskstore.native import levels
from taskstore.packing.parts.subtrees import subtree
from tests.support.blocks import merge
from tests.support.native import at_level

LOWER = levels.available()[:-1]
METHODS = [
    "sum",
    "average",
    "magnitude",
    "localize_and_stitch",
    "lsq",
    "ties",
    "emr",
    "dare",
    "tvq",
]


def random_tau(tasks: int, n: int, seed: int) -> NDArray[np.float32]:
    """With zeros of both signs, and elements that cancel."""
    tau_TN = (np.random.default_rng(seed).standard_normal((tasks, n)) ** 3).astype(np.float32)
    tau_TN[:, ::7], tau_TN[0, ::11], tau_TN[1, ::5] = 0, -0.0, -tau_TN[0, ::5]
    return tau_TN


@pytest.mark.parametrize("level", LOWER)
@pytest.mark.parametrize("method", METHODS)
def test_a_method_has_the_same_bits(method: str, level: str) -> None:
    tau = random_tau(5, 4099, 7)
    best = merge(method, tau)
    with at_level(level):
        assert merge(method, tau).tobytes() == best.tobytes()


@pytest.mark.parametrize("level", LOWER)
@pytest.mark.parametrize("mean", [0, 1])
def test_means_of_one_sign_have_the_same_bits(mean: int, level: str) -> None:
    tau = random_tau(4, 501, 3)
    best = merge("ties", tau, mean=mean, density=0.6)
    with at_level(level):
        assert merge("ties", tau, mean=mean, density=0.6).tobytes() == best.tobytes()


@pytest.mark.parametrize("level", LOWER)
def test_random_numbers_and_subtrees_have_the_same_bits(level: str) -> None:
    found, stream = np.empty((2, 9001), np.uint32), philox.stream(1, "a")
    philox.words(stream, 2**40 + 77, found[0])
    data = np.random.default_rng(2).integers(0, 256, 70_001, np.uint8)
    value = subtree(data, 2**33)
    with at_level(level):
        philox.words(stream, 2**40 + 77, found[1])
        assert subtree(data, 2**33) == value
    assert (found[0] == found[1]).all()
