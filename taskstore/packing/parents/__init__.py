"""Which task each task is coded against, where that is smaller than against the base."""
