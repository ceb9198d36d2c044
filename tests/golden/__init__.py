"""Stores written by each release, kept for ever: added, never regenerated."""
