"""A family into a store; `driver` is the main path. The public names are in `taskstore`."""
