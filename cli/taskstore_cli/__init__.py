"""The `taskstore` command: it reads arguments, calls the library once, and prints."""
