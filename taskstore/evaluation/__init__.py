"""The user's scoring command, its journal, and the scores of a store's models."""
