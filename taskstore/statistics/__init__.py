"""Statistics of a model's weights on examples: their file, and measuring them (`driver`)."""

from taskstore.statistics.statistics_file import About, Statistics

__all__ = ["About", "Statistics"]
