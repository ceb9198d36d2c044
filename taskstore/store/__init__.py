"""Open stores: read what they say of themselves, rebuild their models, prove their files.

Loads neither NumPy nor torch; what rebuilds tensors loads when it is called.
"""

from taskstore.store.store import Store, open

__all__ = ["Store", "open"]
