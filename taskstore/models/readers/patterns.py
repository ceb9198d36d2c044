r"""Match layers' names against an adapter's patterns, in a time that no pattern can stretch.

PEFT runs the keys of `alpha_pattern` as regular expressions. Here a set of positions is stepped
through the name instead, so nothing is tried twice. What names of layers need is read: characters,
`.`, `\d \w`, escapes, classes, groups, `|`, `* + ?`, `^ $`. The rest is refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

MAX_PATTERNS = 4096
MAX_LENGTH = 1024
MAX_DEPTH = 20  # of groups
MAX_STEPS = 10_000_000  # over all names; honest adapters take some thousands

Step = Callable[[str, set[int]], set[int]]  # name, positions -> positions behind a match

_FIXED = re.compile(r"[\w.]*")  # a pattern of one length that `re` matches in one go
_TOKEN = re.compile(
    r"\\(?P<escape>.)|(?P<class>\[\^?(?:\\[dw.-]|\w-\w|[\w.])+-?\])|(?P<open>\((?:\?:)?)(?!\?)"
    r"|(?P<repeat>[*+?])|(?P<plain>[^\\\[\]{}()*+?|])|(?P<mark>[|)])"
)


class Patterns:
    """Patterns in their order; a name is matched as PEFT does: whole, or what follows a dot."""

    def __init__(self, patterns: Iterable[str]) -> None:
        """Raise ValueError, which names a pattern, where one is not read."""
        self._all = list(patterns)
        if len(self._all) > MAX_PATTERNS:
            raise ValueError(f"has {len(self._all)} patterns, more than {MAX_PATTERNS}")
        self._left = MAX_STEPS
        self._matchers = [self._matcher(pattern) for pattern in self._all]

    def first(self, name: str) -> str | None:
        """Return the first pattern that matches; raises ValueError where finding it takes long."""
        starts = {0} | {i + 1 for i, char in enumerate(name) if char == "."}
        for pattern, matches in zip(self._all, self._matchers, strict=True):
            if matches(name, starts):
                return pattern
        return None

    def _matcher(self, pattern: str) -> Callable[[str, set[int]], bool]:
        if len(pattern) > MAX_LENGTH:
            raise ValueError(f"has a pattern of {len(pattern)} characters, {pattern[:40]!r}...")
        if _FIXED.fullmatch(pattern):
            size, fixed = len(pattern), re.compile(pattern)
            return lambda name, starts: (
                len(name) - size in starts and fixed.fullmatch(name[len(name) - size :]) is not None
            )
        try:
            step = self._compiled(pattern)
        except (ValueError, re.error):
            raise ValueError(
                f"has the pattern {pattern[:80]!r}, which is more than names of layers need and is "
                "not run; name the layers, or write them with . * + ? | and groups"
            ) from None
        return lambda name, starts: len(name) in step(name, starts)

    def _compiled(self, pattern: str) -> Step:
        tokens = []
        at = 0
        while at < len(pattern):
            found = _TOKEN.match(pattern, at)
            if found is None:
                raise ValueError
            tokens.append((found.lastgroup or "", found[found.lastgroup or 0]))
            at = found.end()
        step, end = self._branches(tokens, 0, 0)
        if end != len(tokens):
            raise ValueError
        return step

    def _branches(self, tokens: list[tuple[str, str]], at: int, depth: int) -> tuple[Step, int]:
        """Compile up to the end of a group; returns where it ends."""
        if depth > MAX_DEPTH:
            raise ValueError
        branches: list[list[Step]] = [[]]
        while at < len(tokens) and tokens[at] != ("mark", ")"):
            kind, text = tokens[at]
            at += 1
            if kind == "mark":
                branches.append([])
            elif kind == "open":
                inside, at = self._branches(tokens, at, depth + 1)
                if at == len(tokens):
                    raise ValueError
                branches[-1].append(inside)
                at += 1
            elif kind == "repeat":
                again = at < len(tokens) and tokens[at][0] == "repeat"
                if again or not branches[-1]:
                    raise ValueError
                branches[-1].append(_repeated(branches[-1].pop(), text))
            else:
                branches[-1].append(self._single(kind, text))
        return _either([_sequence(steps) for steps in branches]), at

    def _single(self, kind: str, text: str) -> Step:
        """Compile what matches one character, or an end of the name."""
        if kind == "plain" and text in "^$":
            return lambda name, at: at & {0 if text == "^" else len(name)}
        if kind == "escape" and text.isalnum() and text not in "dw":
            raise ValueError
        matches = re.compile(rf"\{text}" if kind == "escape" else text, re.DOTALL).match

        def step(name: str, at: set[int]) -> set[int]:
            self._left -= 1 + len(at)
            if self._left < 0:
                raise ValueError("has patterns that take too long to match; name the layers")
            return {i + 1 for i in at if i < len(name) and matches(name[i])}

        return step


def _sequence(steps: list[Step]) -> Step:
    def step(name: str, at: set[int]) -> set[int]:
        for one in steps:
            at = one(name, at) if at else at
        return at

    return step


def _either(branches: list[Step]) -> Step:
    if len(branches) == 1:
        return branches[0]
    return lambda name, at: set[int]().union(*(branch(name, at) for branch in branches))


def _repeated(once: Step, how: str) -> Step:
    if how == "?":
        return lambda name, at: at | once(name, at)

    def step(name: str, at: set[int]) -> set[int]:
        found = set(at) if how == "*" else set[int]()
        while at := once(name, at) - found:
            found |= at
        return found

    return step
