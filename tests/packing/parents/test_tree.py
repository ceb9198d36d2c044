"""The tree of parents: always a tree, no deeper than allowed, never dearer than the base alone."""

from __future__ import annotations

from itertools import product

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from taskstore.packing.parents import tree


def depths(found: tree.Tree) -> list[int]:
    return [int(n) for n in (tree.above(found) > 0).sum(0)]


def costs(nodes: int, seed: int) -> tree.F64:
    found: tree.F64 = np.random.default_rng(seed).random((nodes, nodes)) + 0.1
    return found


def run(steps: int) -> tree.F64:
    """Checkpoints that move the farther from each other the more steps lie between them."""
    at = np.arange(steps + 1)
    far: tree.F64 = 1 + np.log2(1 + abs(at[:, None] - at))
    far[0] = far[:, 0] = 8
    return far


@given(nodes=st.integers(1, 9), seed=st.integers(0, 2**16), depth=st.integers(1, 4))
def test_it_is_a_tree_of_that_depth(nodes: int, seed: int, depth: int) -> None:
    found = tree.grow(costs(nodes, seed), depth, {})
    assert found[0] == 0
    assert all(1 <= each <= depth for each in depths(found)[1:])
    star = np.zeros(nodes, np.intp)
    assert tree.total(found, costs(nodes, seed)) <= tree.total(star, costs(nodes, seed))


def test_small_trees_are_near_the_best() -> None:
    """Of all trees of four tasks that are at most two deep."""
    trees = [
        np.array([0, *parents])
        for parents in product(range(5), repeat=4)
        if all(p == 0 or (p != i and parents[p - 1] == 0) for i, p in enumerate(parents, 1))
    ]
    ratios = []
    for seed in range(40):
        cost = costs(5, seed)
        best = min(tree.total(each, cost) for each in trees)
        ratios.append(tree.total(tree.grow(cost, 2, {}), cost) / best)
    assert min(ratios) >= 1 - 1e-9
    assert np.mean(ratios) < 1.05


def test_a_run_becomes_chains() -> None:
    cost = run(64)
    star = tree.total(np.zeros(65, np.intp), cost)
    found = tree.grow(cost, 8, {})
    assert max(depths(found)) == 8
    assert tree.total(found, cost) < 0.4 * star
    assert tree.total(tree.grow(cost, 64, {}), cost) == 8 + 63 * 2  # one after the other


def test_what_is_asked_for_is_done() -> None:
    fixed = {1: 3, 3: 2, 5: 4}
    found = tree.grow(run(6), 3, fixed)
    assert {node: int(found[node]) for node in fixed} == fixed
    assert max(depths(found)) <= 3


def test_strangers_keep_to_the_base() -> None:
    cost = np.full((6, 6), 1.5)
    cost[0] = 1
    assert tree.grow(cost, 8, {}).tolist() == [0] * 6


def test_equal_costs_give_equal_trees() -> None:
    assert tree.grow(run(20), 4, {}).tolist() == tree.grow(run(20), 4, {}).tolist()
