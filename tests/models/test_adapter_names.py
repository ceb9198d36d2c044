"""T5's ties under an adapter: what the model reads is what PEFT computes, or it is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from taskstore.errors import CheckpointError
from tests.models.test_adapted import rebuilt

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")


def t5(root: Path, **settings: Any) -> tuple[Any, Any]:
    """A T5 with tied embeddings below `root`, an adapter of it, and the class."""
    import peft
    from transformers import T5Config, T5ForConditionalGeneration

    torch.manual_seed(0)
    small: dict[str, Any] = {"d_model": 16, "d_ff": 24, "d_kv": 4, "num_layers": 1}
    config = T5Config(**small, num_heads=4, vocab_size=50)
    model = T5ForConditionalGeneration(config)
    model.save_pretrained(root / "base")
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=4, **settings))
    for weight in adapted.parameters():
        if weight.requires_grad:
            weight.data += torch.randn(weight.shape) * 0.1
    adapted.save_pretrained(str(root / "adapter"))
    return adapted.eval(), T5ForConditionalGeneration


@pytest.mark.parametrize(
    "settings",
    [{"target_modules": ["q", "v"]}, {"target_modules": ["q", "lm_head"]},
     {"target_modules": ["q"], "modules_to_save": ["lm_head"]}],
)  # fmt: skip
def test_the_ties_of_an_encoder_and_a_decoder(settings: dict[str, Any], tmp_path: Path) -> None:
    adapted, kind = t5(tmp_path, **settings)
    loaded = kind.from_pretrained(rebuilt(tmp_path)).eval()
    given = {"input_ids": torch.arange(9)[None], "decoder_input_ids": torch.arange(5)[None]}
    with torch.no_grad():
        torch.testing.assert_close(loaded(**given).logits, adapted(**given).logits)


@pytest.mark.parametrize(
    "settings",
    [{"target_modules": ["q", "shared"]},
     {"target_modules": ["q"], "modules_to_save": ["shared"]}],
)  # fmt: skip
def test_a_matrix_that_no_module_reads_is_refused(settings: dict[str, Any], tmp_path: Path) -> None:
    t5(tmp_path, **settings)
    with pytest.raises(CheckpointError, match=r"changes 'shared.weight'.*'shared' out.*merge it"):
        rebuilt(tmp_path)


def test_an_embedding_that_is_tied_is_named(tmp_path: Path) -> None:
    t5(tmp_path, target_modules=["q", "embed_tokens"])
    with pytest.raises(CheckpointError, match=r"alone: it shares 'shared.weight'.*without embed_t"):
        rebuilt(tmp_path)
