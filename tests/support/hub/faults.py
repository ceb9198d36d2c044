"""A running hub as tests see it: what was asked of it, and what is to fail."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.support.hub.repositories import Repositories
from tests.support.hub.xet import Xet


@dataclass
class Fault:
    """What happens to the next `times` requests whose "METHOD PATH" matches.

    status   an error instead of an answer, with `headers`
    cut      bytes of the answer after which the connection ends
    then     is called before the answer
    location where the client is sent instead
    """

    pattern: str
    times: int = 1
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    cut: int | None = None
    then: Callable[[], object] | None = None
    location: str = ""


@dataclass
class Hub:
    """A hub that runs. `log` has a line "METHOD PATH RANGE" per request."""

    repositories: Repositories
    url: str = ""
    log: list[str] = field(default_factory=list)
    tokens_seen: list[str] = field(default_factory=list)
    sent: dict[str, int] = field(default_factory=dict)  # bytes of files, by "org/name/path"
    faults: list[Fault] = field(default_factory=list)
    delay: float = 0.0
    page: int = 1000
    xet: Xet | None = None  # where clients put large files, instead of LFS

    def fault_of(self, line: str) -> Fault | None:
        with self.repositories.lock:
            for fault in self.faults:
                if fault.times and re.search(fault.pattern, line):
                    fault.times -= 1
                    return fault
        return None
