"""The worker's memory: load weights, learn where they went, swap them."""
