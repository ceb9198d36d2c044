"""DARE: the generator against its published answers, and what is dropped from what."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from taskstore.merging.methods import philox
from tests.support import oracle_merge
from tests.support.blocks import Models, merge_models, random_models


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [
        ((0, 0, 0, 0), (0, 0), "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ((2**32 - 1,) * 4, (2**32 - 1,) * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ],
)
def test_known_answers(
    counter: tuple[int, int, int, int], key: tuple[int, int], words: str
) -> None:
    """Of the Random123 library; also of the oracle here."""
    wanted = [int(word, 16) for word in words.split()]
    assert oracle_merge.philox(key, counter) == wanted
    own = np.array([*key, *counter[2:]], np.uint32)
    group, inside = divmod(counter[0] + (counter[1] << 32), 1024)
    out = np.empty(4096, np.uint32)
    philox.generate(own, group, out)
    assert out[inside::1024].tolist() == wanted


def numbers_of(stream: NDArray[np.uint32], start: int, n: int) -> NDArray[np.uint32]:
    """The numbers of elements [start, start + n), uint32 (n,)."""
    groups = range(start // 4096, -(-(start + n) // 4096))
    found = np.empty((len(groups), 4096), np.uint32)
    for row, group in zip(found, groups, strict=True):
        philox.generate(stream, group, row)
    return found.reshape(-1)[start - groups.start * 4096 :][:n]


@given(st.integers(0, 2**40), st.integers(1, 9000))
def test_a_number_depends_on_where_it_is(start: int, n: int) -> None:
    stream = philox.stream(3, "task", "tensor")
    found = numbers_of(stream, start, n)
    assert found.size == n
    for i in {0, n // 2, n - 1}:
        at = start + i
        counter = 1024 * (at // 4096) + at % 1024
        words = oracle_merge.philox(
            (int(stream[0]), int(stream[1])),
            (counter % 2**32, counter >> 32, int(stream[2]), int(stream[3])),
        )
        assert found[i] == words[at // 1024 % 4]


def test_streams_have_names_of_their_own() -> None:
    names = [(0, "ab", "c"), (0, "a", "bc"), (0, "c", "ab"), (1, "ab", "c"), (0, "ab", "c", "")]
    assert len({bytes(philox.stream(seed, *rest)) for seed, *rest in names}) == len(names)  # type: ignore[arg-type]
    raw = (0).to_bytes(8, "little") + b"\x02" + bytes(7) + b"ab" + b"\x01" + bytes(7) + b"c"
    assert philox.stream(0, "ab", "c").tobytes() == blake3(raw).digest(16)


@pytest.mark.parametrize("p", [0, 0.3, 0.9])
def test_dare_by_the_numbers(p: float) -> None:
    made = replace(random_models(), block=64)
    wanted: dict[str, np.ndarray] = {}
    for name, task in zip(made.names, made.tasks, strict=True):
        for tensor, tau in task.items():
            numbers = numbers_of(philox.stream(5, name, tensor), 0, tau.size)
            dropped = numbers.reshape(tau.shape) / 2**32 < p
            kept = np.where(dropped, 0, tau.astype(np.float64) / (1 - p))
            wanted[tensor] = wanted.get(tensor, 0) + kept
    found = merge_models("dare", made, {"p": p, "seed": 5})
    for tensor, tau in wanted.items():
        np.testing.assert_allclose(found[tensor], tau, rtol=1e-5, atol=1e-5)


def test_dare_keeps_a_share_and_the_mean() -> None:
    ones = {"w": np.ones(400_000, np.float32)}
    found = merge_models("dare", Models([ones], block=5000))["w"]
    assert set(np.unique(found)) == {np.float32(0), np.float32(1) / np.float32(0.1)}
    assert (found != 0).mean() == pytest.approx(0.1, abs=0.002)  # four standard deviations
    other = merge_models("dare", Models([ones], block=5000), {"seed": 1})["w"]
    both = ((found != 0) & (other != 0)).mean()
    assert both == pytest.approx(0.01, abs=0.001)
    neighbours = ((found[1:] != 0) & (found[:-1] != 0)).mean()
    assert neighbours == pytest.approx(0.01, abs=0.001)


def test_what_is_dropped_does_not_depend_on_other_tasks() -> None:
    rng = np.random.default_rng(2)
    one, two = ({"w": rng.standard_normal((9, 30)).astype("f4")} for _ in range(2))
    alone = merge_models("dare", Models([one], names=["x"]))["w"]
    other = merge_models("dare", Models([two], names=["y"]))["w"]
    both = merge_models("dare", Models([two, one], names=["y", "x"]))["w"]
    assert (both == other + alone).all()


@pytest.mark.parametrize("inner", ["ties", "tsv", "model_stock", "average"])
def test_dare_merges_what_is_left_by_another(inner: str) -> None:
    """The inner method sees dropped vectors when it fits, merges, and reads whole matrices."""
    made = random_models(3)
    left = [
        merge_models("dare", replace(made, tasks=[task], names=[name]), {"p": 0.5})
        for name, task in zip(made.names, made.tasks, strict=True)
    ]
    wanted = merge_models(inner, replace(made, tasks=left))
    found = merge_models(f"dare+{inner}", made, {"p": 0.5})
    for tensor, tau in wanted.items():
        assert (found[tensor] == tau).all()
