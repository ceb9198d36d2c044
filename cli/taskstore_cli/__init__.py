"""The `taskstore` command. One file per command; each parses, calls one function, prints."""
