"""A store that lives: files are added, the manifest is swapped last, old files go when unread."""
