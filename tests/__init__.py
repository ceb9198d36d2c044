"""Tests mirror the modules; `families.py` makes the small models that they use."""
