"""The low-rank part of a rest: found, and its share of the bits."""
