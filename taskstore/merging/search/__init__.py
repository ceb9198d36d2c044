"""Which multi-task model scores best: grids of options, greedy soups."""
