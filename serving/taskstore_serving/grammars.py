"""Structured output needs the vocabulary of the tokenizer that reads and writes for a task."""

from __future__ import annotations

from typing import Any


def same_vocabulary(base: Any, own: Any) -> str:
    """Why grammars made for one tokenizer would be wrong for another; "" where they are right."""
    if own is base or own is None:
        return ""
    theirs, mine = base.get_vocab(), own.get_vocab()
    differing = sorted(token for token, _ in set(theirs.items()) ^ set(mine.items()))
    if differing:
        return (
            f"structured output is not possible with this task: its tokenizer has other tokens "
            f"than the base's ({len(differing)}, such as {differing[0]!r})"
        )
    return ""
