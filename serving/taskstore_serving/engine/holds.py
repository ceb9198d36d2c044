"""Which task of an engine is changing, and which of several API processes have let go of it.

The processes meet in the workers' memory, since the engine is all that they share. One change at a
time. Whoever changes a task holds it; the others stop giving it requests, wait until those that run
have ended, and say so. Values are plain; a worker's methods pass them on.
"""

from __future__ import annotations

from typing import Any


class Holds:
    """The hold of one worker; all workers of an engine are told the same."""

    def __init__(self) -> None:
        self._task, self._owner = "", -1
        self._idle: set[int] = set()

    def take(self, task: str, owner: int) -> bool:
        """Hold a task for an API process; False while another change is under way."""
        if self._owner != -1:
            return False
        self._task, self._owner, self._idle = task, owner, {owner}
        return True

    def idle(self, task: str, process: int) -> bool:
        """Learn that a process has no request of the held task; False where it is not held."""
        if task != self._task or self._owner == -1:
            return False
        self._idle.add(process)
        return True

    def free(self, owner: int) -> bool:
        """End a hold; False where it is another's."""
        if owner != self._owner:
            return False
        self._task, self._owner, self._idle = "", -1, set()
        return True

    def state(self) -> dict[str, Any]:
        return {"task": self._task, "owner": self._owner, "idle": sorted(self._idle)}
