"""Search for the merged model that scores best: grids of options, greedy soups."""
