"""`measure`: statistics of one model on examples, for merge methods that weigh by them."""

from __future__ import annotations

from taskstore.measuring.measure import MeasureReport, measure
from taskstore.measuring.options import MeasureOptions

__all__ = ["MeasureOptions", "MeasureReport", "measure"]
