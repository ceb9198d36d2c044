"""The `taskstore` command: arguments in, one call of the library, output."""
