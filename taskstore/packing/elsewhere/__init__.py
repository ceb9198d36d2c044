"""Stores that are written where they cannot be renamed: in a bucket."""
