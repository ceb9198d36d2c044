"""mergekit's recipes, read."""
