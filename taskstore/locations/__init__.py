"""Where bytes lie: local folders, and what a hub's cache says of them. Never imports torch."""
