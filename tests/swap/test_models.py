"""transformers models of several architectures: loaded from a store, and swapped while live."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf
from torch import Tensor

import taskstore
from taskstore.kernels.torch_dtypes import DTYPES
from taskstore.store import Store
from tests.support import families

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")

_TEXT: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 32,
}
_GROUPED = {**_TEXT, "num_key_value_heads": 2}
_SPECIAL: dict[str, Any] = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}

_LABELS: dict[str, Any] = {"num_labels": 5}


def _ids() -> dict[str, Tensor]:
    return {"input_ids": torch.arange(24).view(2, 12) % 90 + 3}


def _pixels() -> dict[str, Tensor]:
    return {"pixel_values": torch.linspace(-1, 1, 2 * 3 * 16 * 16).view(2, 3, 16, 16)}


def _both() -> dict[str, Tensor]:
    return {**_ids(), "decoder_input_ids": torch.arange(8).view(2, 4) + 3}


Inputs = Callable[[], dict[str, Tensor]]
ARCHITECTURES: dict[str, tuple[str, Callable[[], Any], Inputs]] = {
    "llama": ("LlamaForCausalLM", lambda: tf.LlamaConfig(**_GROUPED, **_SPECIAL), _ids),
    "llama tied": (
        "LlamaForCausalLM",
        lambda: tf.LlamaConfig(**_GROUPED, **_SPECIAL, tie_word_embeddings=True),
        _ids,
    ),
    "qwen3": ("Qwen3ForCausalLM", lambda: tf.Qwen3Config(**_GROUPED, head_dim=8, **_SPECIAL), _ids),
    "gemma": ("GemmaForCausalLM", lambda: tf.GemmaConfig(**_GROUPED, head_dim=8, **_SPECIAL), _ids),
    "gpt2": (
        "GPT2LMHeadModel",
        lambda: tf.GPT2Config(vocab_size=96, n_positions=32, n_embd=32, n_layer=2, n_head=4),
        _ids,
    ),
    "bert": ("BertForMaskedLM", lambda: tf.BertConfig(**_TEXT), _ids),
    "vit": (
        "ViTForImageClassification",
        lambda: tf.ViTConfig(
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            image_size=16,
            patch_size=8,
            **_LABELS,
        ),
        _pixels,
    ),
    "t5": (
        "T5ForConditionalGeneration",
        lambda: tf.T5Config(vocab_size=96, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4),
        _both,
    ),
    "t5 in fp16": (  # transformers keeps some of it in fp32
        "T5ForConditionalGeneration",
        lambda: tf.T5Config(vocab_size=96, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4),
        _both,
    ),
    "gpt neox": ("GPTNeoXForCausalLM", lambda: tf.GPTNeoXConfig(**_TEXT, **_SPECIAL), _ids),
    "mamba": (
        "MambaForCausalLM",
        lambda: tf.MambaConfig(vocab_size=96, hidden_size=32, state_size=4, num_hidden_layers=1),
        _ids,
    ),
    "mixtral": (
        "MixtralForCausalLM",
        lambda: tf.MixtralConfig(**_GROUPED, num_local_experts=4, **_SPECIAL),
        _ids,
    ),
}


def _family(root: Path, architecture: str, dtype: torch.dtype) -> Store:
    """A base and two fine-tunes of a small model, packed."""
    name, config, _ = ARCHITECTURES[architecture]
    torch.manual_seed(0)
    base = getattr(tf, name)(config()).to(dtype)
    base.save_pretrained(root / "base")
    for seed, task in enumerate(("billing", "legal")):
        torch.manual_seed(0)
        model = getattr(tf, name)(config()).to(dtype)
        generator = torch.Generator().manual_seed(seed + 1)
        with torch.no_grad():
            for parameter in model.parameters():
                noise = torch.randn(parameter.shape, generator=generator)
                parameter += (0.02 * noise * noise.abs()).to(dtype)
        model.save_pretrained(root / task)
    tasks = {task: root / task for task in ("billing", "legal")}
    taskstore.pack(root / "base", tasks, root / "store", families.options())
    return taskstore.open(root / "store")


@pytest.fixture(scope="module", params=ARCHITECTURES)
def case(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Store, Inputs]:
    dtype = {"vit": torch.float32, "t5 in fp16": torch.float16}.get(request.param, torch.bfloat16)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        store = _family(tmp_path_factory.mktemp("family"), request.param, dtype)
    return store, ARCHITECTURES[request.param][2]


def _output(model: Any, inputs: Inputs) -> Tensor:
    given = {k: v.to(model.dtype) if v.is_floating_point() else v for k, v in inputs().items()}
    with torch.no_grad():
        logits: Tensor = model(**given).logits
    return logits


def _buffers(model: Any) -> dict[str, Tensor]:
    return dict(model.named_buffers())


def test_a_model_has_the_bits_that_unpacking_gives(
    case: tuple[Store, Inputs], tmp_path: Path
) -> None:
    store, inputs = case
    for task in (None, "billing"):
        folder = store.unpack(task, tmp_path / str(task))
        loaded = store.load_model(task)
        read = type(loaded).from_pretrained(folder, dtype="auto")
        assert not loaded.training
        for one, two in ((loaded.state_dict(), read.state_dict()), map(_buffers, (loaded, read))):
            assert list(one) == list(two)
            for name, ours in one.items():
                assert families.same(ours, two[name]), name
        assert loaded.name_or_path == (task or "base")
        assert {**loaded.config.to_dict(), "_name_or_path": ""} == {
            **read.config.to_dict(),
            "_name_or_path": "",
        }
        assert torch.equal(_output(loaded, inputs), _output(read, inputs))


def test_swaps_end_where_a_loaded_model_is(case: tuple[Store, Inputs]) -> None:
    """Outputs and digests, over all pairs of states; the module stays the same object in memory."""
    store, inputs = case
    expected = {task: _output(store.load_model(task), inputs) for task in (None, *store.tasks)}
    assert not torch.equal(expected["billing"], expected["legal"])
    model = store.load_model("legal")
    places = {name: value.data_ptr() for name, value in model.named_parameters()}
    with taskstore.attach(model, store) as family:
        assert family.active == "legal"
        digests = set()
        for task in ("billing", None, "legal", None, "billing", "legal"):
            family.swap(task)
            assert torch.equal(_output(model, inputs), expected[task])
            digests.add(family.verify().digest)
    assert len(digests) == 3
    assert places == {name: value.data_ptr() for name, value in model.named_parameters()}


def test_another_dtype_is_cast_and_cannot_be_attached(case: tuple[Store, Inputs]) -> None:
    store, _ = case
    stored = DTYPES[next(iter(store.state_dict("billing").values())).dtype]
    model = store.load_model("billing", dtype=torch.float16 if stored != "F16" else torch.bfloat16)
    with pytest.raises(taskstore.TaskstoreError, match=f"is {stored} .*, the module's B?F16"):
        taskstore.attach(model, store)


def test_a_model_inside_another_module(case: tuple[Store, Inputs]) -> None:
    store, inputs = case
    expected = _output(store.load_model("billing"), inputs)
    model = store.load_model("legal")
    whole = torch.nn.ModuleDict({"policy": model, "value": torch.nn.Linear(3, 3)})
    with taskstore.attach(whole, store) as family:
        family.swap("billing")
        family.verify()
    assert torch.equal(_output(model, inputs), expected)
