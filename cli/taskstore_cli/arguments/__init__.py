"""Options and arguments: declared once, and read into what the library takes."""
