"""Shapes of fine-tunes that an engine of the base serves, and what it swaps of them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
from taskstore_serving.checks.choice import best_residual, choose
from taskstore_serving.checks.servable import check_servable, unservable
from taskstore_serving.weights.family import LiveFamily
from torch import Tensor

import taskstore
from taskstore.errors import InputError, SwapError
from tests.serving.weights.test_family import Fused
from tests.support import families
from tests.support.families import State, same

EMBED, HEAD = "embed_tokens.weight", "lm_head.weight"
BUFFER = "layers.0.rotary_emb.inv_freq"


def store_of(
    root: Path, base: State, tasks: dict[str, State], **changes: object
) -> taskstore.Store:
    family = families.Family(root, base, tasks)
    taskstore.pack(family.base_path, family.paths, root / "store", families.options(**changes))
    return taskstore.open(root / "store")


def shapes(base: State) -> dict[str, State]:
    """One fine-tune, as it is and as others would save it."""
    plain = families.tuned(base, 1)
    return {
        "plain": plain,
        "tied": {**plain, HEAD: plain[EMBED].clone()},
        "wide": {name: weight.float() for name, weight in plain.items()},
        "buffer": {**plain, BUFFER: torch.arange(4.0)},
        "all": {name: w.float() for name, w in {**plain, HEAD: plain[EMBED].clone()}.items()},
    }


class Tied(Fused):
    """Leaves out what a loader of a tied model does."""

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> set[str]:
        return super().load_weights((n, weight) for n, weight in weights if n not in (HEAD, BUFFER))


def live(store: taskstore.Store, task: str | None, tier: str | None) -> dict[str, Tensor]:
    model = Tied()
    model.load_weights(store.state_dict(task, tier=tier).items())
    return dict(model.state_dict())


@pytest.mark.parametrize("tiers", ["mask", "mask,rest", "rest"])
def test_a_saved_tie_a_buffer_and_fp32_are_served(tmp_path: Path, tiers: str) -> None:
    base = families.random_state(0)
    store = store_of(tmp_path, base, shapes(base), tiers=tiers, residual=2.0)
    residual, tier = ("rest" in tiers) + 0, "rest" if "rest" in tiers else "mask"
    chosen = choose(store, [], residual=residual, default="", skip=False)
    assert set(chosen.tiers) == {"plain", "tied", "wide", "buffer", "all"}
    model = Tied()
    family = LiveFamily(model, store, store.tasks, residual=residual)
    for task in (None, "wide", "plain", "all", "tied", "buffer", None):
        family.swap(task)
        wanted = live(store, task, task and tier)
        assert all(same(now, wanted[name]) for name, now in model.state_dict().items()), task
    family.verify_all()


def test_a_tie_that_only_the_base_saved_is_that_of_each_task(tmp_path: Path) -> None:
    base = families.random_state(0)
    tasks = {"saved": families.tuned(base, 1), "bare": families.tuned(base, 2)}
    tasks["saved"][HEAD] = tasks["saved"][EMBED].clone()
    store = store_of(tmp_path, {**base, HEAD: base[EMBED].clone()}, tasks)
    check_servable(store.manifest, store.tasks)
    model = Tied()
    family = LiveFamily(model, store, store.tasks)
    for task in ("bare", "saved", None):
        family.swap(task)
        assert same(
            model.state_dict()["embed_tokens_weight"],
            live(store, task, None)["embed_tokens_weight"],
        )


def test_what_is_another_model_is_refused_by_tensor(tmp_path: Path) -> None:
    base = families.random_state(0, torch.float32)
    plain = families.tuned(base, 1)
    store = store_of(
        tmp_path,
        base,
        {
            "head": {**plain, HEAD: plain[EMBED] * 2},
            "narrow": {name: weight.bfloat16() for name, weight in plain.items()},
            "short": {name: weight for name, weight in plain.items() if name != "norm.weight"},
            "grown": {**plain, EMBED: torch.cat([plain[EMBED], plain[EMBED][:2]])},
        },
    )
    said = {task: unservable(store.manifest, task) for task in store.tasks}
    assert said["head"] == f"{HEAD!r} is not in the base"
    assert said["narrow"] == f"{EMBED!r} is BF16, and F32 in the base"
    assert said["short"] == "'norm.weight' is only in the base"
    assert said["grown"] == f"{EMBED!r} has the shape [42, 16], and [40, 16] in the base"


def test_the_best_tier_that_is_there_is_served(small: families.Family, tmp_path: Path) -> None:
    def packed(tiers: str) -> taskstore.Store:
        more = {"residual": 2.0} if "rest" in tiers else {}
        options = families.options(tiers=tiers, **more)
        target = tmp_path / tiers.replace(",", "-")
        taskstore.pack(small.base_path, small.paths, target, options)
        return taskstore.open(target)

    both, rests = packed("mask,rest"), packed("rest")
    assert best_residual(both, [], ()) == (1, "")
    assert best_residual(packed("mask"), [], ()) == (0, "")
    for words in (["--tensor-parallel-size", "2"], ["-tp=2"], ["--tensor_parallel_size=2"]):
        residual, why = best_residual(both, ["alpha"], words)
        assert (residual, "tensor parallel" in why) == (0, True)
        with pytest.raises(InputError, match="tensor parallel cuts .*taskstore pack --tiers mask"):
            best_residual(rests, [], words)  # there is nothing else
    assert best_residual(rests, [], ()) == (1, "")
    assert best_residual(both, [], ["--tensor-parallel-size", "1"]) == (1, "")
    with pytest.raises(SwapError, match="only a rest .--tier rest serves it"):
        choose(rests, [], residual=0, default="", skip=False)
    taskstore.remove(rests, ["beta", "gamma"])
    exact = {"beta": small.paths["beta"]}
    taskstore.add(rests.path, exact, taskstore.AddOptions(tiers="exact"))
    mixed = taskstore.open(rests.path)
    assert best_residual(mixed, [], ()) == (1, "")
    with pytest.raises(SwapError, match="neither mask nor rest; .taskstore replace --tiers rest"):
        choose(mixed, [], residual=1, default="", skip=False)
    chosen = choose(mixed, [], residual=1, default="", skip=True)
    assert (chosen.tiers, list(chosen.left_out)) == ({"alpha": "rest"}, ["beta"])
    with pytest.raises(InputError, match=r"an archive .*taskstore retier .*exact --tiers rest -o"):
        choose(packed("exact"), [], residual=0, default="", skip=True)
