"""What benchmarks share: families, sides, clocks, tables."""
