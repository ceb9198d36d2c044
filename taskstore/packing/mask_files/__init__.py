"""Masks: which weights of the multi-task model a task wants. One method per file."""
