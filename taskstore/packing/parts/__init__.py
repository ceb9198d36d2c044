"""A pack that several processes or machines share: units of work, their parts, and the store."""
