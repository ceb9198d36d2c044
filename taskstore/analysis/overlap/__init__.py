"""How a store's tasks lie over each other: mask algebra on packed bits, angles of task vectors."""

from taskstore.analysis.overlap.counting import measure
from taskstore.analysis.overlap.result import Angles, Overlap, TensorUse

__all__ = ["Angles", "Overlap", "TensorUse", "measure"]
