"""Tests mirror the modules; `support/families.py` makes the small models that they use."""
