"""Which tier and how many bits each task gets, by its error on a sample of the weights."""
