"""What a store shows of its tasks: how they overlap, and a page to open in a browser."""
