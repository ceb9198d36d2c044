"""Gram matrices of tiny models against a padded batch; memory that does not hold all."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf
from safetensors.torch import load_file
from torch import Tensor

from taskstore.errors import (
    InputError,
    NotEnoughMemory,
)
from taskstore.models import open_checkpoint
from taskstore.progress import Progress
from taskstore.statistics import Statistics
from taskstore.statistics.driver import measure
from taskstore.statistics.options import MeasureOptions
from tests.support import families
from tests.support.tiny_models import (
    PAIRS,
    TINY,
    agree,
    bert,
    chat,
    ids,
    llama,
    pairs,
    reload,
    save_model,
    texts,
)


def grams_by_hooks(model: Any, batch: Any, mask: Tensor) -> dict[str, Tensor]:
    """X^T X / n of all linear layers in one padded batch, padding left out."""
    seen: dict[str, Tensor] = {}

    def hook(name: str) -> Callable[..., None]:
        def keep(_: Any, args: tuple[Tensor, ...]) -> None:
            x = args[0].detach().double()
            rows = x[mask] if x.dim() == 3 else x
            seen[f"{name}.weight"] = (rows.T @ rows / len(rows)).float()

        return keep

    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) or type(module).__name__ == "Conv1D":
            module.register_forward_pre_hook(hook(name))
    with torch.no_grad():
        model(**batch, attention_mask=mask.long())
    return seen


def padded(sequences: list[list[int]]) -> tuple[Tensor, Tensor]:
    length = max(map(len, sequences))
    batch = torch.tensor([s + [0] * (length - len(s)) for s in sequences])
    mask = torch.tensor([[i < len(s) for i in range(length)] for s in sequences])
    return batch, mask


@pytest.mark.parametrize("limits", [{}, {"max_memory": 30_000}, {"batch": 1}])
def test_grams_have_no_padding_in_them(tmp_path: Path, limits: dict[str, Any]) -> None:
    """The examples have three lengths; with little memory the layers take several passes."""
    folder = llama(tmp_path / "m")
    out = tmp_path / "s"
    seen: list[Progress] = []
    report = measure(
        folder,
        pairs(tmp_path),
        out,
        MeasureOptions(statistics=("gram",), **limits),
        progress=seen.append,
    )
    model = reload(tf.LlamaForCausalLM, folder)
    batch, mask = padded([a + b for a, b in (chat(*pair) for pair in PAIRS)])
    wanted = grams_by_hooks(model, {"input_ids": batch}, mask)
    assert len(wanted) == 15
    agree(out, "gram", wanted)
    assert (seen[-1].done, seen[-1].total) == (4 * report.passes, 4 * report.passes)
    assert report.passes > 1 if "max_memory" in limits else report.passes == 1
    assert any("of" in p.item for p in seen) == ("max_memory" in limits)


def test_grams_of_a_classifier(tmp_path: Path) -> None:
    """Its pooler and head see one row per example."""
    folder = bert(tmp_path / "m")
    measure(folder, texts(tmp_path), tmp_path / "s", MeasureOptions(statistics=("gram",)))
    model = reload(tf.BertForSequenceClassification, folder)
    batch, mask = padded([ids(prompt) for prompt, _ in PAIRS])
    wanted = grams_by_hooks(model, {"input_ids": batch}, mask)
    assert "classifier.weight" in wanted and "bert.pooler.dense.weight" in wanted
    agree(tmp_path / "s", "gram", wanted)


def test_gpt2_has_its_weights_the_other_way_round(tmp_path: Path) -> None:
    """Its files may lack the prefix that the module has, and hold a mask that is no parameter."""
    torch.manual_seed(2)
    config = tf.GPT2Config(vocab_size=25, n_positions=32, n_embd=16, n_layer=1, n_head=2)
    folder = save_model(tmp_path / "m", tf.GPT2LMHeadModel(config))
    model = reload(tf.GPT2LMHeadModel, folder)
    state = load_file(folder / "model.safetensors")
    short = {name.removeprefix("transformer."): value for name, value in state.items()}
    short["h.0.attn.bias"] = torch.ones(1, 1, 32, 32)
    families.save(folder, short, config=json.loads((folder / "config.json").read_text()))
    measure(folder, pairs(tmp_path), tmp_path / "s")
    with Statistics(tmp_path / "s") as found:
        assert set(found.tensors("fisher")) == set(short) - {"h.0.attn.bias"}
        assert set(found.about.transposed) == {
            f"h.0.{n}.weight" for n in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
        }
        assert found.about.shared == ("wte.weight",)  # the head's, which is the embedding
        assert found.shape("gram", "h.0.mlp.c_fc.weight") == (16, 16)
        assert found.shape("gram", "h.0.mlp.c_proj.weight") == (64, 64)
        checkpoint = open_checkpoint(folder)
        found.check_model("m", checkpoint.tensors, found.digest)
        checkpoint.close()
    batch, mask = padded([a + b for a, b in (chat(*pair) for pair in PAIRS)])
    seen = grams_by_hooks(model, {"input_ids": batch}, mask)
    wanted = {name.removeprefix("transformer."): gram for name, gram in seen.items()}
    wanted["wte.weight"] = wanted.pop("lm_head.weight")
    agree(tmp_path / "s", "gram", wanted)


def test_little_memory_changes_nothing(tmp_path: Path) -> None:
    folder, data = llama(tmp_path / "m"), pairs(tmp_path)
    weights = sum(v.numel() * 4 for v in load_file(folder / "model.safetensors").values())
    whole = measure(folder, data, tmp_path / "a")
    parted = measure(folder, data, tmp_path / "b", MeasureOptions(max_memory=2 * weights))
    assert (whole.passes, parted.passes) == (2, 3)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    with pytest.raises(NotEnoughMemory, match="raise `max_memory`"):
        measure(folder, data, tmp_path / "c", MeasureOptions(max_memory=weights))
    grams = MeasureOptions(statistics=("gram",), max_memory=weights + 1500)
    with pytest.raises(InputError, match=r"the Gram matrix of 'model.layers.0.mlp.down_proj.weig"):
        measure(folder, data, tmp_path / "c", grams)
    assert not (tmp_path / "c").exists()


def test_a_decoder_that_classifies(tmp_path: Path) -> None:
    """Without a padding token it takes one example at a time, with one as many as are equal."""
    for name, pad in (("with", 0), ("without", None)):
        torch.manual_seed(5)
        config = tf.LlamaConfig(**TINY | {"pad_token_id": pad, "num_labels": 3})
        model: Any = tf.LlamaForSequenceClassification
        folder = save_model(tmp_path / name, model(config))
        measure(folder, texts(tmp_path), tmp_path / f"{name}.safetensors")
    one, other = (load_file(tmp_path / f"{name}.safetensors") for name in ("with", "without"))
    assert "gram/score.weight" in one
    for name, value in one.items():
        torch.testing.assert_close(other[name], value, rtol=1e-4, atol=1e-9)
