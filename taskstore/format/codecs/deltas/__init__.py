"""The codec `deltas`: what a chunk of it is, its loops, and its tables."""

from taskstore.format.codecs.deltas.driver import HEAD, Deltas, Head

__all__ = ["HEAD", "Deltas", "Head"]
