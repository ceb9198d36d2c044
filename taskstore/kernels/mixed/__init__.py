"""One matrix of several tasks, each row of activations by its own task's weights."""
