"""Measures how a store's tasks overlap: counts of their masks, angles of their vectors."""

from taskstore.analysis.overlap.counting import measure
from taskstore.analysis.overlap.result import Angles, Overlap, TensorUse

__all__ = ["Angles", "Overlap", "TensorUse", "measure"]
