"""Counts, times and logs, per task."""
