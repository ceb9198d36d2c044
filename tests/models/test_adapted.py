"""A folder rebuilt from an adapter computes in transformers what the adapter computes in PEFT."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import taskstore
from taskstore.errors import CheckpointError
from taskstore.models import open_checkpoint
from tests.support.broken import one_line
from tests.support.families import options

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
SMALL: dict[str, Any] = {
    "vocab_size": 50, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1,
    "num_attention_heads": 4, "num_key_value_heads": 2,
}  # fmt: skip
IDS = torch.arange(12)[None]


def llama(tied: bool = False) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(LlamaConfig(**SMALL, tie_word_embeddings=tied, pad_token_id=0))


def tied() -> Any:
    return llama(tied=True)


def qwen2() -> Any:
    """Its q, k and v have biases."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    return Qwen2ForCausalLM(Qwen2Config(**SMALL, tie_word_embeddings=False))


def gpt2() -> Any:
    """Conv1D, and a tied head."""
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(
        GPT2Config(vocab_size=50, n_embd=32, n_layer=1, n_head=4, n_positions=16, bos_token_id=0,
                   eos_token_id=0)
    )  # fmt: skip


def experts() -> Any:
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

    return Qwen3MoeForCausalLM(
        Qwen3MoeConfig(**SMALL, moe_intermediate_size=24, num_experts=4,
                       num_experts_per_tok=2, tie_word_embeddings=False)
    )  # fmt: skip


Make = Callable[[], Any]
Q, CLM = ["q_proj"], "CAUSAL_LM"
FUSED = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
LORA: dict[str, tuple[Make, dict[str, Any]]] = {
    "a tied head": (tied, {"target_modules": ["q_proj", "lm_head"], "task_type": CLM}),
    "a tied embedding": (tied, {"target_modules": ["q_proj", "embed_tokens"]}),
    "both sides of a tie": (tied, {"target_modules": ["embed_tokens", "lm_head"]}),
    "a tied head of GPT-2": (gpt2, {"target_modules": ["c_attn", "lm_head"]}),
    "a tied head saved": (tied, {"target_modules": Q, "modules_to_save": ["lm_head"]}),
    "a tied embedding saved": (tied, {"target_modules": Q, "modules_to_save": ["embed_tokens"]}),
    "a tie kept": (
        tied, {"target_modules": Q, "modules_to_save": ["embed_tokens"],
               "ensure_weight_tying": True}),
    "DoRA": (qwen2, {"target_modules": "all-linear", "use_dora": True}),
    "DoRA of Conv1D": (gpt2, {"target_modules": ["c_attn", "c_proj"], "use_dora": True}),
    "DoRA of an embedding": (
        llama, {"target_modules": ["embed_tokens", "q_proj"], "use_dora": True}),
    "tokens": (llama, {"target_modules": Q, "trainable_token_indices": [7, 3]}),
    "tokens of a tie": (tied, {"target_modules": Q, "trainable_token_indices": [3, 4]}),
    "tokens of both": (
        llama, {"target_modules": Q,
                "trainable_token_indices": {"embed_tokens": [3], "lm_head": [5, 6]}}),
    "fused experts": (experts, {"target_modules": Q, "target_parameters": FUSED}),
    "fused experts, one of two, rsLoRA": (
        experts, {"target_modules": Q, "target_parameters": FUSED[1:], "use_rslora": True}),
}  # fmt: skip
IA3: dict[str, tuple[Make, dict[str, Any]]] = {
    "IA3": (qwen2, {"target_modules": ["k_proj", "v_proj", "down_proj"],
                    "feedforward_modules": ["down_proj"]}),
    "IA3 of Conv1D": (gpt2, {"target_modules": ["c_attn", "mlp.c_proj"],
                             "feedforward_modules": ["mlp.c_proj"]}),
}  # fmt: skip


def train(root: Path, model: Any, config: Any, single: bool = False) -> Any:
    """Save a model and a trained adapter of it; the model that runs with the adapter."""
    import peft

    model.save_pretrained(root / "base", save_original_format=single)
    adapted = peft.get_peft_model(model, config)
    for weight in adapted.parameters():
        if weight.requires_grad:
            weight.data += torch.randn(weight.shape) * 0.1
    adapted.save_pretrained(str(root / "adapter"))
    return adapted.eval()


def rebuilt(root: Path, **more: object) -> Path:
    taskstore.pack(
        root / "base", {"t": root / "adapter"}, root / "store", options(tiers="exact", **more)
    )
    return taskstore.open(root / "store").unpack("t", root / "model")


def check(root: Path, adapted: Any, kind: Any) -> Any:
    with torch.no_grad():
        expected = adapted(IDS).logits
        loaded = kind.from_pretrained(rebuilt(root)).eval()
        torch.testing.assert_close(loaded(IDS).logits, expected, rtol=1e-4, atol=1e-5)
    return loaded


@pytest.mark.parametrize("name", [*LORA, *IA3])
def test_it_computes_what_the_adapter_computes(name: str, tmp_path: Path) -> None:
    import peft

    torch.manual_seed(0)
    make, settings = {**LORA, **IA3}[name]
    kind = peft.LoraConfig(r=4, lora_alpha=10, **settings) if name in LORA else None
    model = make()
    adapted = train(tmp_path, model, kind or peft.IA3Config(**settings))
    check(tmp_path, adapted, type(model))


def test_new_tokens(tmp_path: Path) -> None:
    """A vocabulary that PEFT saved with its new rows, tied and not; vocab_size follows."""
    import peft

    for kept in (True, False):
        root = tmp_path / str(kept)
        model = llama(tied=kept)
        model.save_pretrained(root / "base")
        model.resize_token_embeddings(54, mean_resizing=False)
        adapted = peft.get_peft_model(model, peft.LoraConfig(r=4, target_modules=Q, task_type=CLM))
        model.get_input_embeddings().weight.data[50:] += 1
        adapted.peft_config["default"].base_model_name_or_path = str(root / "base")
        adapted.save_pretrained(str(root / "adapter"))
        loaded = check(root, adapted.eval(), type(model))
        assert loaded.config.vocab_size == 54
        assert loaded.config.tie_word_embeddings is kept


@pytest.mark.parametrize(("task", "labels"), [("SEQ_CLS", 5), ("TOKEN_CLS", 3), (None, 2)])
def test_a_new_head(task: str | None, labels: int, tmp_path: Path) -> None:
    """The architecture and the number of labels follow; nothing of PEFT's own copies is left."""
    import peft
    from transformers import LlamaForSequenceClassification, LlamaForTokenClassification

    torch.manual_seed(0)
    base = llama()
    base.save_pretrained(tmp_path / "base")
    kind = LlamaForTokenClassification if task == "TOKEN_CLS" else LlamaForSequenceClassification
    model = kind.from_pretrained(tmp_path / "base", num_labels=labels)
    adapted = peft.get_peft_model(
        model,
        peft.LoraConfig(r=4, target_modules=Q, task_type=task, modules_to_save=["score"]),
    )
    for weight in adapted.parameters():
        if weight.requires_grad:
            weight.data += torch.randn(weight.shape) * 0.1
    adapted.save_pretrained(str(tmp_path / "adapter"))
    check(tmp_path, adapted.eval(), kind)
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert config["architectures"] == [kind.__name__]
    names = taskstore.open(tmp_path / "store").manifest.tasks["t"].tensors
    assert "score.weight" in names
    assert not any("original_module" in name or "modules_to_save" in name for name in names)


def test_a_head_with_other_labels_than_the_bases(tmp_path: Path) -> None:
    """The base is a classifier of two labels, the adapter of five: as PEFT has it, labels too."""
    import peft
    from transformers import LlamaForSequenceClassification

    torch.manual_seed(0)
    kind: Any = LlamaForSequenceClassification
    kind(llama().config).save_pretrained(tmp_path / "base")
    model = kind.from_pretrained(tmp_path / "base", num_labels=5, ignore_mismatched_sizes=True)
    chosen = peft.LoraConfig(r=4, target_modules=Q, task_type="SEQ_CLS")
    adapted = peft.get_peft_model(model, chosen)
    for weight in adapted.parameters():
        if weight.requires_grad:
            weight.data += torch.randn(weight.shape) * 0.1
    adapted.save_pretrained(str(tmp_path / "adapter"))
    assert check(tmp_path, adapted.eval(), kind).config.num_labels == 5
    head = taskstore.open(tmp_path / "store").manifest.tasks["t"].tensors["score.weight"]
    assert (head.kind, head.shape) == ("adapted", [5, SMALL["hidden_size"]])


def test_a_head_on_a_model_whose_modules_have_other_names(tmp_path: Path) -> None:
    """The base is saved without a head, in names of old; the adapter has today's, with `vit.`."""
    import peft
    from transformers import ViTConfig, ViTForImageClassification, ViTModel

    torch.manual_seed(0)
    small = {
        key: SMALL[key] for key in SMALL if key[:3] in ("hid", "int", "num") and "key" not in key
    }
    config = ViTConfig(**small, image_size=8, patch_size=4)
    ViTModel(config).save_pretrained(tmp_path / "base")
    model = ViTForImageClassification.from_pretrained(tmp_path / "base", num_labels=5)
    linear = [n for n, m in model.named_modules() if isinstance(m, torch.nn.Linear)]
    adapted = peft.get_peft_model(
        model, peft.LoraConfig(r=4, target_modules=linear[:2], modules_to_save=["classifier"])
    )
    for weight in adapted.parameters():
        if weight.requires_grad:
            weight.data += torch.randn(weight.shape) * 0.1
    adapted.save_pretrained(str(tmp_path / "adapter"))
    loaded = ViTForImageClassification.from_pretrained(rebuilt(tmp_path)).eval()
    image = torch.randn(1, 3, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(loaded(image).logits, adapted.eval()(image).logits)
    assert loaded.config.num_labels == 5


def test_the_adapters_own_files_win(tmp_path: Path) -> None:
    import peft

    model = llama()
    train(tmp_path, model, peft.LoraConfig(r=4, target_modules=Q))
    (tmp_path / "base" / "tokenizer.json").write_text('{"of": "base"}')
    (tmp_path / "base" / "vocab.txt").write_text("base")
    (tmp_path / "adapter" / "tokenizer.json").write_text('{"of": "adapter"}')
    out = rebuilt(tmp_path)
    assert json.loads((out / "tokenizer.json").read_text()) == {"of": "adapter"}
    assert (out / "vocab.txt").read_text() == "base"
    assert not (out / "adapter_config.json").exists()


@pytest.mark.parametrize("kind", ["Qwen3Moe", "Mixtral"])
def test_experts_one_by_one(kind: str, tmp_path: Path) -> None:
    """The base's files have a tensor per expert, PEFT adapted the fused ones that are loaded."""
    import peft
    import transformers

    torch.manual_seed(0)
    more = {"num_experts": 4, "num_experts_per_tok": 2} if kind == "Qwen3Moe" else {}
    config = getattr(transformers, f"{kind}Config")(**SMALL, **more, tie_word_embeddings=False)
    model = getattr(transformers, f"{kind}ForCausalLM")(config)
    settings = peft.LoraConfig(r=4, target_modules=Q, target_parameters=FUSED)
    adapted = train(tmp_path, model, settings, single=True)
    assert "experts.0." in " ".join(open_checkpoint(tmp_path / "base").tensors)
    check(tmp_path, adapted, type(model))


def test_other_experts_are_refused_with_the_way_out(tmp_path: Path) -> None:
    """A base whose single experts have other names than those that are known."""
    import peft

    config = peft.LoraConfig(r=4, target_modules=Q, target_parameters=FUSED)
    train(tmp_path, experts(), config)
    experts().save_pretrained(tmp_path / "split")
    file = tmp_path / "split" / "model.safetensors"
    state = {n.replace("gate_proj", "inner"): w for n, w in load_file(file).items()}
    save_file(state, file)
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(tmp_path / "adapter", "t", open_checkpoint(tmp_path / "split"))
    one_line(caught.value, "target_parameters", "save_original_format=False", "PeftModel")
