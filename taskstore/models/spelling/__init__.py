"""Read a fine-tune under the names that its base has: prefixes, wrappers, ties, fused experts."""

from __future__ import annotations

from taskstore.models.spelling.aligned import aligned
from taskstore.models.spelling.view import padded

__all__ = ["aligned", "padded"]
