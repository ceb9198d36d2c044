"""A Llama of a wished size: its configuration and the tensors that it has."""

from __future__ import annotations

import math
from dataclasses import dataclass

HEAD_DIM = 64
GROUP = 4  # query heads that share one key and value head
ASPECT = 100  # width over layers that real models have, about
TOLERANCE = 0.01
ARCHITECTURE = "LlamaForCausalLM"
TORCH_NAMES = {"bf16": "bfloat16", "f16": "float16", "f32": "float32"}


@dataclass(frozen=True)
class Llama:
    """Grouped-query attention, gated MLP, embedding and head apart."""

    vocabulary: int
    width: int
    layers: int
    mlp: int

    @property
    def parameters(self) -> int:
        return sum(math.prod(shape) for shape in self.shapes().values())

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Tensor name -> shape, in the order of the names."""
        w, kv, mlp = self.width, self.width // GROUP, self.mlp
        shapes: dict[str, tuple[int, ...]] = {
            "model.embed_tokens.weight": (self.vocabulary, w),
            "model.norm.weight": (w,),
            "lm_head.weight": (self.vocabulary, w),
        }
        for i in range(self.layers):
            layer = f"model.layers.{i}"
            shapes |= {
                f"{layer}.input_layernorm.weight": (w,),
                f"{layer}.post_attention_layernorm.weight": (w,),
                f"{layer}.self_attn.q_proj.weight": (w, w),
                f"{layer}.self_attn.k_proj.weight": (kv, w),
                f"{layer}.self_attn.v_proj.weight": (kv, w),
                f"{layer}.self_attn.o_proj.weight": (w, w),
                f"{layer}.mlp.gate_proj.weight": (mlp, w),
                f"{layer}.mlp.up_proj.weight": (mlp, w),
                f"{layer}.mlp.down_proj.weight": (w, mlp),
            }
        return dict(sorted(shapes.items()))

    def config(self, dtype: str) -> dict[str, object]:
        """The config.json that transformers reads."""
        heads = self.width // HEAD_DIM
        return {
            "architectures": [ARCHITECTURE],
            "attention_bias": False,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "head_dim": HEAD_DIM,
            "hidden_act": "silu",
            "hidden_size": self.width,
            "initializer_range": 0.02,
            "intermediate_size": self.mlp,
            "max_position_embeddings": 2048,
            "mlp_bias": False,
            "model_type": "llama",
            "num_attention_heads": heads,
            "num_hidden_layers": self.layers,
            "num_key_value_heads": heads // GROUP,
            "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0,
            "tie_word_embeddings": False,
            "torch_dtype": TORCH_NAMES[dtype],
            "use_cache": True,
            "vocab_size": self.vocabulary,
        }


def of_size(parameters: float) -> Llama:
    """The best-proportioned Llama within one percent of `parameters`; ValueError if none is."""
    vocabulary = 32000 if parameters >= 2e8 else 8192 if parameters >= 1e7 else 1024
    found: list[tuple[float, Llama]] = []
    for width in range(HEAD_DIM * GROUP, 16385, HEAD_DIM * GROUP):
        fixed = 2 * vocabulary * width + width
        usual = _layer(width, _mlp(width))
        layers = round((parameters - fixed) / usual)
        if layers < 1:
            break
        # What rounding to whole layers left over goes into the width of the MLP.
        left = (parameters - fixed) / layers - _layer(width, 0)
        step = 32 if parameters >= 1e7 else 8  # widths of real models are multiples of 32
        mlp = max(step, round(left / (3 * width) / step) * step)
        model = Llama(vocabulary, width, layers, mlp)
        if abs(model.parameters / parameters - 1) <= TOLERANCE:
            found.append((abs(math.log(width / layers / ASPECT)), model))
    if not found:
        raise ValueError(f"no Llama has about {parameters:g} parameters; ask for 2e6 or more")
    return min(found, key=lambda pair: pair[0])[1]


def _mlp(width: int) -> int:
    return round(8 * width / 3 / 64) * 64


def _layer(width: int, mlp: int) -> int:
    """Parameters of one layer."""
    return 2 * width * width + 2 * width * width // GROUP + 3 * width * mlp + 2 * width
