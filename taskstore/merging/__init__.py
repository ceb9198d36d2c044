"""Merge a base and its fine-tunes into one multi-task model, a Hugging Face folder.

Vectors are read, merged, added and written block by block, so memory is a few blocks, whatever the
models' size and number. Methods that want matrices whole (RegMean, TSV-Merge) hold one at a time.
Arithmetic is float32, rounded once, to the dtype of the output. `MERGES` has the methods by name.
"""

from __future__ import annotations

from taskstore.merging.driver import merge, merge_family
from taskstore.merging.from_store import merge_store
from taskstore.merging.methods import MERGES
from taskstore.merging.options import MergeOptions
from taskstore.merging.report import MergeReport

__all__ = ["MERGES", "MergeOptions", "MergeReport", "merge", "merge_family", "merge_store"]
