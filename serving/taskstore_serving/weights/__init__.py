"""The worker's memory: loaded, learned, swapped."""
