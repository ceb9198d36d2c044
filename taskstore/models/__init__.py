"""Read model folders as lazy, named tensors, a block of bytes at a time.

`open_checkpoint` opens every kind of model. What it returns knows names, dtypes and shapes from
headers alone and reads any range of elements on demand, so memory never depends on the model. Hub
ids resolve to a local snapshot in `locate`, the only place that would ever touch a network.
"""

from __future__ import annotations

from taskstore.models.checkpoint import Checkpoint, TensorInfo
from taskstore.models.open import open_checkpoint
from taskstore.models.original_files import Originals, WeightFile
from taskstore.models.weights_digest import digest_of

__all__ = ["Checkpoint", "Originals", "TensorInfo", "WeightFile", "digest_of", "open_checkpoint"]
