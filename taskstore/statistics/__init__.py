"""What a model's examples say of its weights: the file, and measuring it (`driver`)."""

from taskstore.statistics.file import About, Statistics

__all__ = ["About", "Statistics"]
