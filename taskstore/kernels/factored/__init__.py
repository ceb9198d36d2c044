"""Factors of whole numbers: their product, and how they and few levels are coded."""
