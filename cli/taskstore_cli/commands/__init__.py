"""One file per command: it parses, calls one function, prints."""
