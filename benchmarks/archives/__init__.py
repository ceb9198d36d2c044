"""Lossless archives and their rivals."""
