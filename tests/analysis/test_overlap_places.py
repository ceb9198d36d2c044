"""Layer, type and kind of a tensor, from names of real architectures."""

from __future__ import annotations

import pytest

from taskstore.analysis.overlap.places import KINDS, places


@pytest.mark.parametrize(
    ("name", "layer", "type", "kind"),
    [
        ("model.layers.12.self_attn.q_proj.weight", 12, "self_attn.q_proj", "attention q"),
        ("model.layers.0.self_attn.k_proj.bias", 0, "self_attn.k_proj", "attention k"),
        ("model.layers.0.self_attn.v_proj.weight", 0, "self_attn.v_proj", "attention v"),
        ("model.layers.0.self_attn.o_proj.weight", 0, "self_attn.o_proj", "attention o"),
        ("model.layers.0.self_attn.q_norm.weight", 0, "self_attn.q_norm", "norm"),
        ("model.layers.3.mlp.experts.7.down_proj.weight", 3, "mlp.experts.*.down_proj", "mlp"),
        ("model.layers.0.input_layernorm.weight", 0, "input_layernorm", "norm"),
        ("model.norm.weight", None, "model.norm", "norm"),
        ("model.embed_tokens.weight", None, "model.embed_tokens", "embeddings"),
        ("lm_head.weight", None, "lm_head", "head"),
        ("transformer.h.1.attn.c_attn.weight", 1, "attn.c_attn", "attention qkv"),
        ("transformer.h.1.attn.c_proj.weight", 1, "attn.c_proj", "attention o"),
        ("transformer.h.1.ln_1.bias", 1, "ln_1", "norm"),
        ("transformer.wpe.weight", None, "transformer.wpe", "embeddings"),
        ("bert.encoder.layer.2.attention.self.query.weight", 2, "attention.self.query",
         "attention q"),
        ("bert.encoder.layer.2.attention.output.dense.weight", 2, "attention.output.dense",
         "attention o"),
        ("bert.encoder.layer.2.attention.output.LayerNorm.weight", 2,
         "attention.output.LayerNorm", "norm"),
        ("bert.encoder.layer.2.output.dense.weight", 2, "output.dense", "mlp"),
        ("vit.embeddings.patch_embeddings.projection.weight", None,
         "vit.embeddings.patch_embeddings.projection", "embeddings"),
        ("vit.layers.4.layernorm_before.bias", 4, "layernorm_before", "norm"),
        ("layer1.0.conv1.weight", 0, "conv1", "other"),
        ("features.3.weight", 3, "features.*", "other"),
        ("scale", None, "scale", "other"),
        ("weight", None, "weight", "other"),
        ("7.weight", 7, "*", "other"),
        ("x.99999999999999999999.y", 999999999, "y", "other"),
    ],
)  # fmt: skip
def test_places(name: str, layer: int | None, type: str, kind: str) -> None:
    place = places([name])[name]
    assert (place.layer, place.type, place.kind) == (layer, type, kind)
    assert kind in KINDS


def test_two_stacks_of_layers_stay_apart() -> None:
    names = [f"{side}.block.{i}.layer.0.SelfAttention.q" for side in ("encoder", "decoder")
             for i in range(2)]  # fmt: skip
    found = places([*names, "shared.weight"])
    assert {found[name].type for name in names} == {
        "encoder.block.*.layer.*.SelfAttention.q",
        "decoder.block.*.layer.*.SelfAttention.q",
    }
    assert found["shared.weight"].kind == "embeddings"
    assert {found[name].kind for name in names} == {"attention q"}
