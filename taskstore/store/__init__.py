"""An open store: what it says of itself, its models rebuilt, its files proved.

Loads neither NumPy nor torch; what rebuilds tensors loads when it is called.
"""

from taskstore.store.store import Store, open

__all__ = ["Store", "open"]
