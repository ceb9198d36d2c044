"""Merge methods: one formula per file, by name in `registry`."""

from taskstore.merging.methods.api import F32, Info, Method, Shared, Vectors, Whole
from taskstore.merging.methods.registry import (
    MERGES,
    PROCEDURES,
    check,
    info_of,
    make,
    options_of,
    procedure,
    split,
)

__all__ = [
    "F32",
    "MERGES",
    "PROCEDURES",
    "Info",
    "Method",
    "Shared",
    "Vectors",
    "Whole",
    "check",
    "info_of",
    "make",
    "options_of",
    "procedure",
    "split",
]
