"""What a path is."""

from __future__ import annotations

import os

PathLike = str | os.PathLike[str]
