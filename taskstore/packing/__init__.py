"""Pack a family into a store; `driver` is the main path. `taskstore` has the public names."""
