"""What is refused before an engine starts."""
