"""A scheduler that tells a test in another process what it learnt of the cost of swaps."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from taskstore_serving.scheduler import AsyncTaskScheduler

TOLD = "TASKSTORE_TEST_SWAP_SECONDS"


class TellingScheduler(AsyncTaskScheduler):
    """After each step it writes the cost to the file that the environment names."""

    def update_from_output(self, *outputs: Any) -> Any:
        found = super().update_from_output(*outputs)
        Path(os.environ[TOLD]).write_text(str(self._turns.cost))
        return found
