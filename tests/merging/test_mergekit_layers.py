"""Recipes with slices, gradients and filters, by plain formulas on whole tensors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file
from taskstore_cli.main import main
from torch import Tensor

State = dict[str, Tensor]
LAYERS, RESTS = 4, ("mlp.up.weight", "self_attn.q.weight", "norm.weight")
OUTSIDE = ("model.embed_tokens.weight", "model.norm.weight", "lm_head.weight")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, State]]:
    """base, a and b of four layers, float32."""
    root, states = tmp_path_factory.mktemp("layers"), {}
    generator = torch.Generator().manual_seed(5)
    shapes = {f"model.layers.{i}.{rest}": (12, 12) for i in range(LAYERS) for rest in RESTS[:2]}
    shapes |= {f"model.layers.{i}.{RESTS[2]}": (12,) for i in range(LAYERS)}  # type: ignore[misc]
    shapes |= {OUTSIDE[0]: (20, 12), OUTSIDE[2]: (20, 12), OUTSIDE[1]: (12,)}  # type: ignore[dict-item]
    base = {n: torch.randn(s, generator=generator) for n, s in shapes.items()}
    for model, step in (("base", 0.0), ("a", 0.1), ("b", 0.2)):
        state = {n: w + step * torch.randn(w.shape, generator=generator) for n, w in base.items()}
        (root / model).mkdir()
        save_file(state, root / model / "model.safetensors")
        config = {"model_type": "llama", "num_hidden_layers": LAYERS, "vocab_size": 20,
                  "layer_types": ["w", "x", "y", "z"]}  # fmt: skip
        (root / model / "config.json").write_text(json.dumps(config))
        states[model] = state
    return root, states


def merged(models: tuple[Path, dict[str, State]], target: Path, text: str) -> State:
    path = models[0] / "recipe.yaml"
    path.write_text(text)
    words = ["merge", "--config", str(path), "-o", str(target), "--jobs", "1", "--unrelated"]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 0, done.output
    return load_file(target / "model.safetensors")


def test_a_gradient_goes_over_the_layers_and_filters_over_names(
    models: tuple[Path, dict[str, State]], tmp_path: Path
) -> None:
    """Outside the layers a gradient has its first value; the first filter that fits counts."""
    states = models[1]
    text = """
merge_method: task_arithmetic
base_model: base
models:
  - model: a
    parameters:
      weight:
        - {filter: self_attn, value: [0, 0.4, 1]}
        - {filter: mlp, value: 0.3}
  - {model: b, parameters: {weight: [0.5, 0.2]}}
parameters: {weight: 0.7}
"""
    found = merged(models, tmp_path / "out", text)
    attention = [0, 0.4 * 2 / 3, 0.4 + 0.6 / 3, 1.0]
    for name, weight in states["base"].items():
        layer = int(name.split(".")[2]) if "layers" in name else 0
        a = attention[layer] if "self_attn" in name else 0.3 if "mlp" in name else 0.7
        b = 0.5 - 0.3 * layer / 3
        wanted = weight + a * (states["a"][name] - weight) + b * (states["b"][name] - weight)
        torch.testing.assert_close(found[name], wanted, rtol=1e-5, atol=1e-6)


def test_each_model_may_have_a_density_of_its_own(
    models: tuple[Path, dict[str, State]], tmp_path: Path
) -> None:
    states = models[1]
    text = """
merge_method: breadcrumbs
base_model: base
models:
  - {model: a, parameters: {weight: 1, density: 0.5}}
  - {model: b, parameters: {weight: 2, density: [1, 0.25], gamma: 0}}
parameters: {gamma: 0.1, lambda: 0.5}
"""

    def kept(tau: Tensor, density: float, gamma: float) -> Tensor:
        n, flat = tau.numel(), tau.reshape(-1)
        top = min(int(n * gamma), n - int(n * density))
        order = flat.abs().argsort()[n - int(n * density) - top : n - top]
        return torch.zeros(n).index_put((order,), flat[order]).reshape(tau.shape)

    found = merged(models, tmp_path / "out", text)
    for name, weight in states["base"].items():
        layer = int(name.split(".")[2]) if "layers" in name else 0
        a = kept(states["a"][name] - weight, 0.5, 0.1)
        b = kept(states["b"][name] - weight, 1 - 0.75 * layer / 3, 0)
        wanted = weight + 0.5 * (a + 2 * b)
        torch.testing.assert_close(found[name], wanted, rtol=1e-5, atol=1e-6)


def test_passthrough_stacks_layers_of_several_models(
    models: tuple[Path, dict[str, State]], tmp_path: Path
) -> None:
    """Embeddings are the first slice's, the rest the last one's; the config has the new depth."""
    states = models[1]
    text = """
merge_method: passthrough
slices:
  - sources: [{model: a, layer_range: [0, 3]}]
  - sources:
      - model: b
        layer_range: [1, 4]
        parameters: {scale: [{filter: mlp, value: 0.5}, {value: 1}]}
"""
    found = merged(models, tmp_path / "out", text)
    origin = [("a", 0), ("a", 1), ("a", 2), ("b", 1), ("b", 2), ("b", 3)]
    wanted = {OUTSIDE[0]: states["a"][OUTSIDE[0]]}
    wanted |= {name: states["b"][name] for name in OUTSIDE[1:]}
    for layer, (model, own) in enumerate(origin):
        for rest in RESTS:
            scale = 0.5 if model == "b" and "mlp" in rest else 1
            theirs = states[model][f"model.layers.{own}.{rest}"]
            wanted[f"model.layers.{layer}.{rest}"] = scale * theirs
    assert found.keys() == wanted.keys()
    for name, weight in wanted.items():
        torch.testing.assert_close(found[name], weight, rtol=1e-6, atol=1e-7)
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert config["num_hidden_layers"] == 6
    assert config["layer_types"] == ["w", "x", "y", "x", "y", "z"]


def test_slices_take_models_and_numbers_of_their_own(
    models: tuple[Path, dict[str, State]], tmp_path: Path
) -> None:
    """A slice of one layer has a gradient's last value; a slice's own goes before the recipe's."""
    states = models[1]
    text = """
merge_method: linear
slices:
  - sources:
      - {model: base, layer_range: [0, 1], parameters: {weight: 1}}
      - {model: a, layer_range: [3, 4], parameters: {weight: [0, 3]}}
  - sources: [{model: b, layer_range: [0, 1]}, {model: a, layer_range: [0, 1]}]
    parameters: {weight: 2}
parameters: {weight: 5}
"""
    found = merged(models, tmp_path / "out", text)
    for rest in RESTS:
        first, last = (f"model.layers.{i}.{rest}" for i in (0, LAYERS - 1))
        wanted = (states["base"][first] + 3 * states["a"][last]) / 4
        torch.testing.assert_close(found[first], wanted, rtol=1e-5, atol=1e-6)
        wanted = (states["b"][first] + states["a"][first]) / 2
        torch.testing.assert_close(found[f"model.layers.1.{rest}"], wanted, rtol=1e-5, atol=1e-6)


def test_layers_that_a_model_has_not(models: tuple[Path, dict[str, State]], tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(
        "merge_method: passthrough\nslices:\n"
        f"  - sources: [{{model: {models[0]}/a, layer_range: [2, 5]}}]\n"
    )
    done = CliRunner().invoke(main, ["merge", "--config", str(path), "-o", str(tmp_path / "out")])
    assert done.exit_code == 1
    assert "slices[0].sources[0] takes 'model.layers.4." in done.stderr
    assert "which a has not" in done.stderr and not (tmp_path / "out").exists()
