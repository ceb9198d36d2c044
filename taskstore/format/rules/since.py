"""Which version of the format a member or a codec needs."""

from __future__ import annotations

VERSION_OF_EXACT = VERSION_OF_SCORES = 2
VERSION_OF_TIERS = 3
VERSION_OF_VECTORS = VERSION_OF_FIDELITY = VERSION_OF_CUTS = VERSION_OF_COUNTS = 4
VERSION_OF_CHANGES = VERSION_OF_PARENTS = VERSION_OF_ADAPTERS = VERSION_OF_SPARSE = 5
VERSION_OF_DELTAS = VERSION_OF_FACTORED = VERSION_OF_LOW_RANK = 6
CODECS_OF_TIERS = {"mask": "guided", "exact": "deltas"}  # of archives, beside the usual ones
OLDER_CODECS = {"exact": "strides"}  # those that archives had before
