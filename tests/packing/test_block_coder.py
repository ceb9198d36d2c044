"""Weights that are not finite: kept where all models have them, refused where they differ."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import taskstore
from taskstore.errors import NotFinite
from taskstore.merging import MergeOptions, merge
from taskstore.store.verify import verify
from tests.support import families
from tests.support.families import Family, State, options, same

INF, NAN = float("inf"), float("nan")
KINDS = ["mask", "rest", "exact", "mask,rest", "mask,exact"]


def with_constants(state: State, dtype: torch.dtype) -> State:
    """A mask's constant that became -Inf, and a matrix of which some rows are NaN or Inf."""
    holes = state["layers.0.attn.weight"].clone()
    holes[3], holes[7, 5], holes[8, 6] = NAN, INF, -INF
    constant = torch.tensor(-1e9).to(torch.float16).to(dtype)  # -Inf
    return {**state, "masked_bias": constant, "layers.0.attn.weight": holes}


def made(root: Path, dtype: torch.dtype, tuned: torch.dtype | None = None) -> Family:
    base = with_constants(families.random_state(0, dtype), dtype)
    tasks = {
        name: {**families.tuned(base, i, dtype=tuned or dtype)} for i, name in enumerate("abc")
    }
    return Family(root, base, tasks)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize(
    ("tiers", "level"),
    [
        (tiers, level)
        for tiers in KINDS
        for level in ("speed", "archive")
        if tiers != "rest" or level == "speed"
    ],
)
def test_what_all_models_share_is_kept(
    tiers: str, dtype: torch.dtype, level: str, tmp_path: Path
) -> None:
    family = made(tmp_path, dtype)
    chosen = options(tiers=tiers, level=level)
    taskstore.pack(family.base_path, family.paths, tmp_path / "s", chosen)
    store = taskstore.open(tmp_path / "s")
    for name, state in [(None, family.base), *family.tasks.items()]:
        back = store.state_dict(name)
        for tensor in ("masked_bias", "layers.0.attn.weight"):
            gone = ~torch.isfinite(state[tensor])
            assert gone.any()
            if "exact" in tiers or name is None:
                assert same(back[tensor], state[tensor])
            assert torch.equal(back[tensor].nan_to_num()[gone], state[tensor].nan_to_num()[gone])
            assert torch.isfinite(back[tensor][~gone]).all()
    assert verify(store, deep=True).ok


@pytest.mark.parametrize("method", ["average", "ties", "lsq"])
def test_a_merge_keeps_them_too(method: str, tmp_path: Path) -> None:
    family = made(tmp_path, torch.bfloat16)
    merge(family.base_path, family.paths, tmp_path / "m", MergeOptions(method, jobs=1))
    merged = load_file(tmp_path / "m" / "model.safetensors")
    for tensor in ("masked_bias", "layers.0.attn.weight"):
        gone = ~torch.isfinite(family.base[tensor])
        assert same(merged[tensor][gone], family.base[tensor][gone])
        assert torch.isfinite(merged[tensor][~gone]).all()


@pytest.mark.parametrize("tiers", ["mask", "rest", "mask,rest"])
@pytest.mark.parametrize(("base", "own"), [(1.0, INF), (INF, 1.0), (INF, -INF), (NAN, INF)])
def test_a_difference_that_is_not_finite_is_named(
    base: float, own: float, tiers: str, tmp_path: Path
) -> None:
    states = {"base": families.random_state(0), "a": families.random_state(0)}
    states["base"]["norm.weight"][3], states["a"]["norm.weight"][3] = base, own
    family = Family(tmp_path, states["base"], {"a": states["a"]})
    with pytest.raises(NotFinite, match=r"a: tensor 'norm.weight' .* tiers=.exact"):
        taskstore.pack(family.base_path, family.paths, tmp_path / "s", options(tiers=tiers))
    taskstore.pack(family.base_path, family.paths, tmp_path / "s", options(tiers="exact"))
    back = taskstore.open(tmp_path / "s").state_dict("a")
    assert same(back["norm.weight"], states["a"]["norm.weight"])


@pytest.mark.parametrize("tiers", ["mask", "rest", "exact"])
def test_private_tensors_are_bits(tiers: str, tmp_path: Path) -> None:
    base = families.random_state(0)
    head = torch.tensor([NAN, INF, 1.0])
    family = Family(tmp_path, base, {"a": {**families.tuned(base, 1), "head": head}})
    taskstore.pack(family.base_path, family.paths, tmp_path / "s", options(tiers=tiers))
    assert same(taskstore.open(tmp_path / "s").state_dict("a")["head"], head)


@pytest.mark.parametrize("tiers", ["mask", "rest", "exact"])
def test_a_constant_that_overflows_in_the_dtype_of_the_fine_tune(
    tiers: str, tmp_path: Path
) -> None:
    """-1e9 in a bf16 base is -Inf in its fp16 fine-tune: the cast base, bit for bit."""
    base = {**families.random_state(0), "masked_bias": torch.tensor(-1e9).bfloat16()}
    own = families.tuned(base, 1, dtype=torch.float16)
    own["masked_bias"] = base["masked_bias"].half()
    family = Family(tmp_path, base, {"a": own})
    taskstore.pack(family.base_path, family.paths, tmp_path / "s", options(tiers=tiers))
    back = taskstore.open(tmp_path / "s").state_dict("a")
    assert same(back["masked_bias"], own["masked_bias"])
