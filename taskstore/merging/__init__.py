"""One multi-task model out of a base and its fine-tunes, as a Hugging Face folder.

The vectors are read, merged, added and written block by block: memory is a few blocks, whatever the
models' size and number. Only methods that want a matrix whole (RegMean, TSV-Merge) hold one at a
time. Arithmetic is float32, rounded once, to the dtype of the output.
"""

from __future__ import annotations

from taskstore.merging.driver import merge, merge_family
from taskstore.merging.from_store import merge_store
from taskstore.merging.options import MergeOptions
from taskstore.merging.report import MergeReport

__all__ = ["MergeOptions", "MergeReport", "merge", "merge_family", "merge_store"]
