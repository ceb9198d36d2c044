"""vLLM's models of several architectures, without an engine: served alike, or refused by name."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from taskstore_serving.options import ServeOptions
from taskstore_serving.weights.guard import check_compilation, check_layers
from torch import nn

import taskstore
from taskstore.errors import SwapError
from tests.serving.support import architectures
from tests.serving.support.engines import need_vllm
from tests.support import families


def packed(root: Path, kind: str, *tasks: str, head: bool = False) -> taskstore.Store:
    """The store of an architecture's family, its `assets` beside it."""
    need_vllm()
    family = architectures.family(root, kind, head)
    options = families.options(chunk=1 << 16, tiers="mask,rest", residual=2.0)
    paths = {task: family.paths[task] for task in tasks or family.paths}
    taskstore.pack(family.base_path, paths, root / "store", options)
    store = taskstore.open(root / "store")
    store.write_assets(None, root / "assets")
    return store


def serving(store: taskstore.Store, *tasks: str, residual: Any = 0) -> dict[str, Any]:
    options = ServeOptions(str(store.path), tasks, residual=residual)
    return {"load_format": "taskstore", "model_loader_extra_config": options.to_dict()}


def digests(model: Any) -> dict[str, str]:
    from tests.serving.support.unpacked import digests

    return digests(SimpleNamespace(get_model=lambda: model))


@pytest.mark.parametrize(
    ("kind", "residual"), [("llama", 1), ("qwen3", 1), ("gpt2", 0), ("opt", 1)]
)
@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_swaps_give_what_vllm_loads_from_the_folder(
    tmp_path: Path, kind: str, residual: int
) -> None:
    store = packed(tmp_path, kind)
    found = {}
    with architectures.loaded(tmp_path / "assets", **serving(store, residual=residual)) as model:
        family = model.taskstore_family
        assert family.state()["verified"]
        family.remove("one")
        family.add("one")
        for task in ("two", None, "one"):
            family.swap(task)
            found[task] = digests(model)
    for task in ("one", None):
        tier = ("mask", "rest")[residual] if task else None
        folder = store.unpack(task, tmp_path / f"unpacked-{task}", tier=tier)
        with architectures.loaded(folder) as model:
            assert digests(model) == found[task]


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_what_is_not_plainly_swappable_is_refused_by_name(tmp_path: Path) -> None:
    store = packed(tmp_path / "moe", "qwen3_moe")
    moved = r"weight 'model\.layers\.0\.mlp\.experts\..*' was moved when the engine prepared it"
    with (
        pytest.raises(SwapError, match=moved),
        architectures.loaded(tmp_path / "moe" / "assets", **serving(store)),
    ):
        pass
    store = packed(tmp_path / "gpt2", "gpt2")
    turned = (
        r"tensor 'transformer\.h\.0\.attn\.c_attn\.weight' of task 'one' is turned .*--tier mask"
    )
    with (
        pytest.raises(SwapError, match=turned),
        architectures.loaded(tmp_path / "gpt2" / "assets", **serving(store, residual=1)),
    ):
        pass
    quantised = r"layer 'transformer\.h\.0\.attn\.c_attn' is quantised \(Fp8.*\) while it is loaded"
    with (
        pytest.raises(SwapError, match=quantised),
        architectures.loaded(tmp_path / "gpt2" / "assets", **serving(store), quantization="fp8"),
    ):
        pass


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_a_head_of_its_own_is_served_untied_or_refused(tmp_path: Path) -> None:
    store = packed(tmp_path / "both", "qwen3", head=True)
    assets = tmp_path / "both" / "assets"
    with (
        pytest.raises(SwapError, match=r"task 'one' has a head of its own.*tie_word_embeddings"),
        architectures.loaded(assets, **serving(store)),
    ):
        pass
    untied = {"hf_overrides": {"tie_word_embeddings": False}}
    with architectures.loaded(assets, **serving(store), **untied) as model:
        model.taskstore_family.swap("two")
        found = digests(model)
        assert found["lm_head.weight"] != found["model.embed_tokens.weight"]
    with architectures.loaded(store.unpack("two", tmp_path / "two", tier="mask")) as model:
        assert digests(model) == found
    with (  # there vLLM sees the base's own copy of its embedding, and ties it when it is loaded
        pytest.raises(SwapError, match=r"weight 'lm_head\.weight' was (moved|tied to)"),
        architectures.loaded(store.unpack(None, tmp_path / "whole"), **serving(store)),
    ):
        pass


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_a_copy_of_the_embedding_is_its_head(tmp_path: Path) -> None:
    store = packed(tmp_path, "qwen3", "one", head=True)
    with architectures.loaded(tmp_path / "assets", **serving(store, residual=1)) as model:
        assert model.taskstore_family.state()["verified"]


def test_a_quantised_layer_is_refused_by_name() -> None:
    class OnlineMethod:
        """Scales come from the weights."""

    class UnquantizedMethod:
        """As they are."""

    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[0].quant_method = UnquantizedMethod()  # type: ignore[assignment]
    check_layers(model)
    model[1].quant_method = OnlineMethod()  # type: ignore[assignment]
    with pytest.raises(SwapError, match=r"layer '1' is quantised \(OnlineMethod\)"):
        check_layers(model)


def test_absorbed_weights_are_refused_by_name() -> None:
    class MLAAttention(nn.Module):
        """vLLM's computes W_UK and W_UV from its weights."""

    class Special(MLAAttention):
        """Of one architecture."""

    with pytest.raises(SwapError, match=r"layer '0' computes from products .*\(MLA\)"):
        check_layers(nn.Sequential(Special()))


@pytest.mark.parametrize("option", ["freezing", "max_autotune"])
def test_weights_frozen_into_compiled_code_are_refused(option: str) -> None:
    def config(mode: int, **options: bool) -> Any:
        compilation = SimpleNamespace(mode=mode, inductor_compile_config=options)
        device = SimpleNamespace(device_type="cpu")
        return SimpleNamespace(compilation_config=compilation, device_config=device)

    check_compilation(config(0, **{option: True}))
    check_compilation(config(3, **{option: False}))
    with pytest.raises(SwapError, match="inductor would freeze the weights"):
        check_compilation(config(3, **{option: True}))
