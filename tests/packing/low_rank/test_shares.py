"""Matrices whose steps are finer are known by their names."""

from __future__ import annotations

from taskstore.packing.low_rank.shares import shares


def test_embeddings_attention_and_the_first_layers_are_finer() -> None:
    names = [f"model.layers.{i}.{part}.weight" for i in range(8) for part in ("self_attn.q", "mlp")]
    found = shares([*names, "model.embed_tokens.weight", "head.0.weight"])
    assert found["model.embed_tokens.weight"] == 0.6
    assert found["head.0.weight"] == found["model.layers.2.mlp.weight"] == 1
    assert found["model.layers.2.self_attn.q.weight"] == 0.75
    assert found["model.layers.1.mlp.weight"] == 0.8
    assert found["model.layers.0.self_attn.q.weight"] == 0.75 * 0.8


def test_towers_have_first_layers_of_their_own() -> None:
    towers = {"vision.encoder.layer": 6, "text.h": 12, "blocks": 1}
    found = shares([f"{tower}.{i}.w" for tower, layers in towers.items() for i in range(layers)])
    finer = [name for name, share in found.items() if share < 1]
    assert finer == ["vision.encoder.layer.0.w", *(f"text.h.{i}.w" for i in range(3)), "blocks.0.w"]
