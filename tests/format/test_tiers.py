"""What every tier must do. A new one that codes what is missing below is found in ABOVE."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from taskstore.errors import NotFinite
from taskstore.format import names
from taskstore.format.dtypes import ITEMSIZE, MASKED, numel
from taskstore.format.layouts import multitask_layouts
from taskstore.format.manifest import TIERS
from taskstore.format.rules.since import CODECS_OF_TIERS
from taskstore.format.section import Layout, decode, encode
from taskstore.format.tiers import ABOVE, BY_NAME, Bits, BlockSpec, Spot
from taskstore.format.tiers.mask import encode_mask
from taskstore.kernels import bits, cpu, floats
from tests.support.tiers import (
    CHUNK,
    LEVELS,
    SHAPES,
    TASK,
    Streams,
    any_bits,
    manifest_of,
    moved,
    parts,
    sections,
    weights,
)


def coded_above(
    tier: str, theta_N: Bits, below_N: Bits, spec: BlockSpec
) -> tuple[Streams, list[Bits]]:
    """Chunk by chunk -> stored streams, and the weights that the tier says they rebuild."""
    streams, rebuilt = Streams(), list[Bits]()
    for part in parts(theta_N.size):
        one, rebuilt_N = ABOVE[tier].encode(
            theta_N[part], below_N[part], replace(spec, start=part.start)
        )
        streams.append(one)
        rebuilt.append(rebuilt_N)
    return streams, rebuilt


def spec_of(dtype: str, shape: tuple[int, ...], level: str, rate: float = 2.0) -> BlockSpec:
    archive = level == "archive"
    return BlockSpec(dtype, shape, 0, 2.0 ** (2 - rate), archive=archive, label=(TASK, "w"))


def test_the_registry_is_the_manifest_s() -> None:
    """In the order in which tiers build on each other."""
    assert tuple(BY_NAME) == TIERS == tuple(names.TIER_FILES)
    assert set(ABOVE) == set(TIERS) - {"mask"}
    assert all(BY_NAME[tier] is ABOVE[tier] for tier in ABOVE)
    assert set(CODECS_OF_TIERS) <= set(TIERS)


@pytest.mark.parametrize("tier", BY_NAME)
def test_stems(tier: str) -> None:
    """One kind of file per tier, of a task's own, and listed where all of them are."""
    stem = BY_NAME[tier].stem(TASK)
    assert stem == names.stem_of(tier, TASK)
    assert stem in names.stems_of(TASK)
    assert stem in names.stems_up_to(tier, TASK)
    assert stem != BY_NAME[tier].stem("other")
    assert stem not in {BY_NAME[other].stem(TASK) for other in BY_NAME if other != tier}
    lower = TIERS[: TIERS.index(tier)]
    assert all(stem not in names.stems_up_to(other, TASK) for other in lower)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("dtype", sorted(MASKED))
@pytest.mark.parametrize("tier", BY_NAME)
def test_layouts_and_files(tier: str, dtype: str, level: str) -> None:
    """A section per tensor that has the tier; its step reads no file that is not named."""
    manifest = manifest_of((tier,), dtype, level=level)
    layouts = BY_NAME[tier].layouts(manifest, manifest.tasks[TASK])
    assert set(layouts) == set(SHAPES)
    for name, layout in layouts.items():
        assert (layout.n, layout.chunk) == (numel(SHAPES[name]), CHUNK)
    files = BY_NAME[tier].files(manifest, TASK)
    assert files[BY_NAME[tier].stem(TASK)] == layouts
    assert set(files) <= {names.MULTITASK, *names.stems_up_to(tier, TASK)}
    for other in set(TIERS) - {tier}:
        without = manifest_of((other,), dtype, level=level)
        assert BY_NAME[tier].layouts(without, without.tasks[TASK]) == {}


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("dtype", sorted(MASKED))
@pytest.mark.parametrize("tier", ABOVE)
def test_its_step_rebuilds_what_encode_says(
    tier: str, dtype: str, name: str, level: str, tmp_path: Path
) -> None:
    shape = SHAPES[name]
    below_N = weights(numel(shape), dtype, 1)
    theta_N = moved(below_N, dtype, 2)
    streams, rebuilt = coded_above(tier, theta_N, below_N, spec_of(dtype, shape, level))
    manifest = manifest_of((tier,), dtype, level=level, shapes={name: shape})
    layouts = BY_NAME[tier].layouts(manifest, manifest.tasks[TASK])
    stem = BY_NAME[tier].stem(TASK)
    with sections(tmp_path, {stem: (layouts, {name: streams})}) as section:
        spot = Spot(TASK, name, dtype, lambda stem: section(stem, name))
        step = BY_NAME[tier].step(spot)
        for k in reversed(range(len(rebuilt))):  # chunks are read in any order
            found_N = step(k, below_N[parts(theta_N.size)[k]], dtype)
            assert found_N.dtype == theta_N.dtype
            assert np.array_equal(found_N, rebuilt[k])
    if theta_N.size > CHUNK:
        missing = [floats.to_float32(w_N, dtype) - floats.to_float32(theta_N, dtype)
                   for w_N in (below_N, np.concatenate(rebuilt))]  # fmt: skip
        assert np.square(missing[1]).sum() < 0.4 * np.square(missing[0]).sum()


@pytest.mark.parametrize("below", sorted(MASKED))
@pytest.mark.parametrize("own", sorted(MASKED))
@pytest.mark.parametrize("tier", ABOVE)
def test_a_task_of_another_dtype_than_its_base(
    tier: str, own: str, below: str, tmp_path: Path
) -> None:
    """Encoding is given what is below in the task's dtype; its step casts that itself."""
    shape = SHAPES["matrix"]
    below_N = weights(numel(shape), below, 3)
    cast_N = cpu.cast(below_N, below, own)
    theta_N = moved(cast_N, own, 4)
    streams, rebuilt = coded_above(tier, theta_N, cast_N, spec_of(own, shape, "speed"))
    manifest = manifest_of((tier,), below, own, shapes={"w": shape})
    layouts = BY_NAME[tier].layouts(manifest, manifest.tasks[TASK])
    with sections(tmp_path, {BY_NAME[tier].stem(TASK): (layouts, {"w": streams})}) as section:
        step = BY_NAME[tier].step(Spot(TASK, "w", own, lambda stem: section(stem, "w")))
        for k, part in enumerate(parts(theta_N.size)):
            assert np.array_equal(step(k, below_N[part], below), rebuilt[k])


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("dtype", sorted(MASKED))
@given(n=st.integers(0, 600), seed=st.integers(0, 1000), same=st.booleans())
def test_exact_is_exact_for_any_bits(dtype: str, level: str, n: int, seed: int, same: bool) -> None:
    theta_N = any_bits(n, dtype, seed)
    below_N = theta_N.copy() if same else any_bits(n, dtype, seed + 1)
    streams, rebuilt_N = ABOVE["exact"].encode(theta_N, below_N, spec_of(dtype, (n,), level))
    assert np.array_equal(rebuilt_N, theta_N)
    manifest = manifest_of(("exact",), dtype, level=level, shapes={"w": (n,)})
    codec = BY_NAME["exact"].layouts(manifest, manifest.tasks[TASK])["w"].codec
    read_N = Layout(codec, n, ITEMSIZE[dtype], CHUNK)
    assert np.array_equal(decoded(read_N, streams, below_N), theta_N)


def decoded(layout: Layout, streams: list[bytes], given_N: Bits) -> Bits:
    views = [memoryview(stream) for stream in streams]
    return decode(layout.codec, views, layout.n, layout.itemsize, given_N)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("dtype", sorted(MASKED))
def test_exact_takes_nothing_where_nothing_is_missing(dtype: str, level: str) -> None:
    theta_N = weights(CHUNK, dtype, 5)
    streams, _ = ABOVE["exact"].encode(theta_N, theta_N, spec_of(dtype, (CHUNK,), level))
    assert sum(map(len, streams)) < 32


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", sorted(MASKED))
def test_a_rest_of_what_is_not_finite_is_refused(dtype: str, value: float) -> None:
    """By the names of task and tensor; the exact tier takes it as it is."""
    below_N = weights(CHUNK, dtype, 6)
    theta_N = moved(below_N, dtype, 7)
    theta_N[100] = floats.from_float32(np.array([value], np.float32), dtype)[0]
    spec = spec_of(dtype, (CHUNK,), "speed")
    with pytest.raises(NotFinite, match=f"{TASK}: tensor 'w' holds NaN or Inf"):
        ABOVE["rest"].encode(theta_N, below_N, spec)
    _, rebuilt_N = ABOVE["exact"].encode(theta_N, below_N, spec)
    assert np.array_equal(rebuilt_N, theta_N)


@pytest.mark.parametrize("dtype", sorted(MASKED))
def test_more_bits_make_a_better_rest(dtype: str) -> None:
    shape = (64, 128)
    below_N = weights(numel(shape), "F32", 8)
    theta_N = moved(below_N, "F32", 9)
    below_N, theta_N = (cpu.cast(w_N, "F32", dtype) for w_N in (below_N, theta_N))
    errors, sizes = [], []
    for rate in (1.0, 2.0, 4.0):
        spec = spec_of(dtype, shape, "speed", rate)
        streams, rebuilt_N = ABOVE["rest"].encode(theta_N, below_N, spec)
        missing_N = floats.to_float32(rebuilt_N, dtype) - floats.to_float32(theta_N, dtype)
        errors.append(float(np.square(missing_N).sum()))
        sizes.append(sum(map(len, streams)))
    assert errors == sorted(errors, reverse=True) and len(set(errors)) == 3
    assert sizes == sorted(sizes) and len(set(sizes)) == 3


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("own", sorted(MASKED))
@pytest.mark.parametrize("dtype", sorted(MASKED))
def test_a_mask_selects_w1_or_w0(dtype: str, own: str, level: str, tmp_path: Path) -> None:
    """In the base's dtype, then cast to the task's."""
    shape = SHAPES["matrix"]
    n = numel(shape)
    w0_N = weights(n, dtype, 10)
    w1_N = moved(w0_N, dtype, 11)
    mask_N = np.random.default_rng(12).random(n) < 0.4
    manifest = manifest_of(("mask",), dtype, own, level, {"w": shape})
    masks, multitask = Streams(), Streams()
    for part in parts(n):
        packed_P = bits.pack(mask_N[part])
        archive = level == "archive"
        masks.append(encode_mask(packed_P, w0_N[part], w1_N[part], dtype, archive=archive))
        multitask.append(encode("ulp", w1_N[part], w0_N[part]))
    tier = BY_NAME["mask"]
    files = {
        names.MULTITASK: (multitask_layouts(manifest), {"w": multitask}),
        tier.stem(TASK): (tier.layouts(manifest, manifest.tasks[TASK]), {"w": masks}),
    }
    assert {stem: layouts for stem, (layouts, _) in files.items()} == tier.files(manifest, TASK)
    expected_N = cpu.cast(np.where(mask_N, w1_N, w0_N), dtype, own)
    with sections(tmp_path, files) as section:
        step = tier.step(Spot(TASK, "w", own, lambda stem: section(stem, "w")))
        for k, part in enumerate(parts(n)):
            assert np.array_equal(step(k, w0_N[part], dtype), expected_N[part])


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("dtype", sorted(MASKED))
def test_tiers_stand_on_each_other(dtype: str, level: str, tmp_path: Path) -> None:
    """Rest over the base, exact over the rest, in one store: each step takes the one before."""
    shape = SHAPES["matrix"]
    w0_N = weights(numel(shape), dtype, 13)
    theta_N = moved(w0_N, dtype, 14)
    chosen = tuple(tier for tier in TIERS if tier in ABOVE)
    manifest = manifest_of(chosen, dtype, level=level, shapes={"w": shape})
    task, below_N, files = manifest.tasks[TASK], w0_N, {}
    for tier in chosen:
        streams, rebuilt = coded_above(tier, theta_N, below_N, spec_of(dtype, shape, level))
        files[BY_NAME[tier].stem(TASK)] = (
            BY_NAME[tier].layouts(manifest, task),
            {"w": streams},
        )
        below_N = np.concatenate(rebuilt)
    assert np.array_equal(below_N, theta_N)
    with sections(tmp_path, files) as section:
        spot = Spot(TASK, "w", dtype, lambda stem: section(stem, "w"))
        steps = [BY_NAME[tier].step(spot) for tier in chosen]
        for k, part in enumerate(parts(theta_N.size)):
            chunk_N = w0_N[part]
            for step in steps:
                chunk_N = step(k, chunk_N, dtype)
            assert np.array_equal(chunk_N, theta_N[part])


@pytest.mark.parametrize("tier", ABOVE)
def test_encoding_changes_nothing_that_it_is_given(tier: str) -> None:
    """And what a block is coded by is plain data, which may go elsewhere."""
    spec = pickle.loads(pickle.dumps(spec_of("BF16", (CHUNK,), "speed")))
    below_N = weights(CHUNK, "BF16", 15)
    theta_N = moved(below_N, "BF16", 16)
    before: list[NDArray[Any]] = [theta_N.copy(), below_N.copy()]
    one = ABOVE[tier].encode(theta_N, below_N, spec)
    other = ABOVE[tier].encode(theta_N, below_N, spec)
    assert np.array_equal(theta_N, before[0]) and np.array_equal(below_N, before[1])
    assert one[0] == other[0]
