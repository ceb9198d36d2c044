"""One engine for all tasks beside engines of their own."""
