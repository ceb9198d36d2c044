"""Stores on a hub: push them there, pull them, or some of their tasks."""
