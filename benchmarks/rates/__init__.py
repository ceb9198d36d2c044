"""Bits against accuracy."""
