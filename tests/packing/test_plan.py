"""Dtypes: an archive keeps any bits; masks, rests and merges say what they need, and how."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

import taskstore
from taskstore.errors import TaskstoreError
from taskstore.format.codecs.ulp import Ulp
from taskstore.merging import MergeOptions, merge
from taskstore.packing.revise import retier
from taskstore.store.verify import verify
from tests.support.families import options, random_state, same, save, tuned

FP8 = torch.float8_e4m3fn


def noise(dtype: torch.dtype, seed: int) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    size = torch.empty((), dtype=dtype).element_size()
    raw = torch.randint(0, 256, (40, 24 * size), generator=g, dtype=torch.uint8)
    if dtype == torch.bool:
        return raw > 127
    return raw.view(dtype)


KINDS = [
    *(FP8, torch.float8_e5m2, torch.float8_e8m0fnu, torch.int8, torch.uint8, torch.int32),
    *(torch.float64, torch.complex64, torch.bool, torch.int64),
]


@pytest.mark.parametrize("level", ["speed", "archive"])
@pytest.mark.parametrize("dtype", KINDS, ids=str)
def test_an_archive_keeps_any_bits(dtype: torch.dtype, level: str, tmp_path: Path) -> None:
    """Coded against the base's of the same dtype; alone where they differ in it."""
    states = {
        "base": {"w": noise(dtype, 1), "scale": torch.ones(40), "v": noise(dtype, 2)},
        "a": {"w": noise(dtype, 3), "scale": torch.ones(40), "v": noise(dtype, 2)},
    }
    states["a"]["w"].view(torch.uint8)[:30] = states["base"]["w"].view(torch.uint8)[:30]
    paths = {name: save(tmp_path / name, state) for name, state in states.items()}
    chosen = options(tiers="exact", level=level)
    taskstore.pack(paths["base"], {"a": paths["a"]}, tmp_path / "s", chosen)
    store = taskstore.open(tmp_path / "s")
    kinds = {n: e.kind for n, e in store.manifest.tasks["a"].tensors.items()}
    assert kinds == {"w": "exact", "v": "base", "scale": "exact"}
    store.unpack("a", tmp_path / "back")
    files = [p / "model.safetensors" for p in (paths["a"], tmp_path / "back")]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert verify(store, deep=True).ok


DTYPES = [torch.bfloat16, torch.float16, torch.float32]


@pytest.mark.parametrize("level", ["speed", "archive"])
@pytest.mark.parametrize(("theirs", "own"), itertools.permutations(DTYPES, 2), ids=str)
def test_other_floats_cost_their_difference_from_the_cast_base(
    theirs: torch.dtype, own: torch.dtype, level: str, tmp_path: Path
) -> None:
    base = random_state(0, theirs)
    states = {"cast": {n: v.to(own) for n, v in base.items()}, "a": tuned(base, 1, dtype=own)}
    paths = {name: save(tmp_path / name, state) for name, state in states.items()}
    chosen = options(tiers="exact", level=level, chunk=1 << 16)
    report = taskstore.pack(save(tmp_path / "base", base), paths, tmp_path / "s", chosen)
    size = {t.name: t.exact_bytes for t in report.summary.tasks}
    assert not any(t.private_bytes for t in report.summary.tasks)
    assert size["cast"] < size["a"] / 1.5
    retier(taskstore.open(tmp_path / "s"), options(tiers="rest,exact"), tmp_path / "t")
    for store in map(taskstore.open, (tmp_path / "s", tmp_path / "t")):
        for name, state in states.items():
            back = store.state_dict(name)
            assert all(same(back[n], state[n]) for n in state)


CONFIG = {"quantization_config": {"quant_method": "bitsandbytes"}}


@pytest.mark.parametrize("tiers", ["mask", "rest", "mask,exact"])
@pytest.mark.parametrize("dtype", [FP8, torch.float64], ids=str)
def test_masks_and_rests_say_the_dtype_and_how_to_convert(
    dtype: torch.dtype, tiers: str, tmp_path: Path
) -> None:
    for some in ({}, {"norm.weight": torch.ones(9)}):
        for name, seed in (("base", 1), ("a", 2)):
            save(tmp_path / name, {"w": noise(dtype, seed), **some})
        word = "F8_E4M3" if dtype == FP8 else "F64"
        with pytest.raises(TaskstoreError, match=rf"{word}.*(convert|dequantize).*tiers=.exact"):
            taskstore.pack(
                tmp_path / "base", {"a": tmp_path / "a"}, tmp_path / "s", options(tiers=tiers)
            )
        with pytest.raises(TaskstoreError, match=rf"{word}.*merges take"):
            merge(tmp_path / "base", {"a": tmp_path / "a"}, tmp_path / "m", MergeOptions("average"))


@pytest.mark.parametrize("tiers", ["mask", "exact"])
def test_quantised_on_one_side(tiers: str, tmp_path: Path) -> None:
    plain = {"w": torch.randn(64, 64), "norm": torch.ones(8)}
    packed = {"w": torch.ones(2048, 1, dtype=torch.uint8), "norm": torch.ones(8)}
    save(tmp_path / "plain", plain), save(tmp_path / "four", packed, config=CONFIG)
    for base, task in (("plain", "four"), ("four", "plain")):
        with pytest.raises(TaskstoreError, match=r"four is quantised \(bitsandbytes, 'w' is U8\)"):
            taskstore.pack(
                tmp_path / base, {task: tmp_path / task}, tmp_path / "s", options(tiers=tiers)
            )


def test_a_config_that_is_left_over_is_said(tmp_path: Path) -> None:
    base = save(tmp_path / "base", random_state(0))
    task = save(tmp_path / "a", tuned(random_state(0), 1), config=CONFIG)
    report = taskstore.pack(base, {"a": task}, tmp_path / "s", options())
    assert any("a: its config has a quantization_config (bitsandb" in w for w in report.warnings)


@given(st.sampled_from(["<u1", "<u8"]), st.integers(0, 50), st.data())
def test_ulp_of_one_and_eight_bytes(dtype: str, n: int, data: st.DataObject) -> None:
    """Lossless for every pair of bit patterns, and 0 for equal ones."""
    w0_N, w1_N = (data.draw(st_numpy.arrays(dtype, n)) for _ in range(2))
    streams = Ulp().encode(w1_N, w0_N)
    assert [s.size for s in streams] == [n] * w0_N.itemsize
    assert np.array_equal(Ulp().decode(streams, n, w0_N.itemsize, w0_N), w1_N)
    assert not any(s.any() for s in Ulp().encode(w0_N, w0_N))


def test_bits_per_parameter_where_there_are_no_floats(tmp_path: Path) -> None:
    for name, seed in (("base", 1), ("a", 2)):
        save(tmp_path / name, {"w": noise(torch.float64, seed)})
    report = taskstore.pack(
        tmp_path / "base", {"a": tmp_path / "a"}, tmp_path / "s", options(tiers="exact")
    )
    assert report.summary.tasks[0].bits_per_parameter < 100
