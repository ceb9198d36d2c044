"""Scores a store's models: in folders, or as one live model whose weights are swapped in place."""

from taskstore.harness.driver import evaluate
from taskstore.harness.live_models import LiveModels
from taskstore.harness.lm_eval import LmEval

__all__ = ["LiveModels", "LmEval", "evaluate"]
