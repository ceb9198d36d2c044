"""A hub for tests, on loopback: repositories, commits, LFS files, ranges, tokens, faults."""
