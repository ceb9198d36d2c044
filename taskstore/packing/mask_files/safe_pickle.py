"""Reads a pickle of byte arrays as data: nothing that it names is imported, called or built.

A pickle is a program for a stack machine. This machine knows only the steps that occur in numpy's
own pickles of arrays and dicts (protocols 3 and 4), puts a note (`Made`) where a call would be, and
leaves the bytes of arrays where they are in the file (`Span`). What else a pickle may do is
refused at the first such step. Steps and lengths are bounded before anything is kept.
"""

from __future__ import annotations

import mmap
from dataclasses import dataclass
from typing import Any

MAX_STEPS = 1 << 20  # an array takes about 40
MAX_TEXT = 4096
NUMPY = {"numpy ndarray", "numpy dtype"} | {
    f"numpy.{core}.multiarray _reconstruct" for core in ("core", "_core")
}


class Refused(Exception):
    """The pickle is broken, or more than byte arrays."""


@dataclass(frozen=True)
class Global:
    """A name of NUMPY, "module name"."""

    name: str


@dataclass(frozen=True)
class Span:
    """Bytes [start, stop) of the file."""

    start: int
    stop: int


@dataclass(eq=False)
class Made:
    """What a call of `of` with `args` would have made, and the state it would have been given."""

    of: Global
    args: tuple[Any, ...]
    state: Any = None


_CONSTANTS = {b"N": None, b"\x88": True, b"\x89": False}
_NUMBERS = {b"K": (1, False), b"M": (2, False), b"J": (4, True)}
_TEXTS = {b"\x8c": 1, b"X": 4}  # the bytes of their length
_BYTES = {b"C": 1, b"B": 4, b"\x8e": 8}
_PUTS = {b"q": 1, b"r": 4}
_GETS = {b"h": 1, b"j": 4}
_TUPLES = {b")": 0, b"\x85": 1, b"\x86": 2, b"\x87": 3}
_SKIPPED = {b"\x80": 1, b"\x95": 8}  # protocol, frame


def load(file: mmap.mmap, start: int) -> Any:
    """The value of the pickle from byte `start` on; raises Refused."""
    machine = _Machine(file, start)
    for _ in range(MAX_STEPS):
        step = machine.take(1)
        if step == b".":
            return machine.pop()
        machine.run(step)
    raise Refused(f"has more than {MAX_STEPS} parts")


class _Machine:
    def __init__(self, file: mmap.mmap, at: int) -> None:
        self._file, self._at = file, at
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}

    def take(self, size: int) -> bytes:
        span = self._span(size)
        return self._file[span.start : span.stop]

    def pop(self) -> Any:
        if len(self._stack) <= (self._marks[-1] if self._marks else 0):
            raise Refused("is broken")
        return self._stack.pop()

    def run(self, step: bytes) -> None:
        if step in _CONSTANTS:
            self._stack.append(_CONSTANTS[step])
        elif step in _NUMBERS:
            size, signed = _NUMBERS[step]
            self._stack.append(self._number(size, signed=signed))
        elif step == b"\x8a":
            self._stack.append(self._number(self._number(1), signed=True))
        elif step in _TEXTS:
            self._stack.append(self._text(self._number(_TEXTS[step])))
        elif step in _BYTES:
            self._stack.append(self._span(self._number(_BYTES[step])))
        elif step in _SKIPPED:
            self.take(_SKIPPED[step])
        elif step in _PUTS:
            self._memo[self._number(_PUTS[step])] = self._top()
        elif step == b"\x94":
            self._memo[len(self._memo)] = self._top()
        elif step in _GETS:
            self._get(self._number(_GETS[step]))
        elif step in _TUPLES:
            items = [self.pop() for _ in range(_TUPLES[step])]
            self._stack.append(tuple(reversed(items)))
        elif step == b"t":
            self._stack.append(tuple(self._above_mark()))
        elif step == b"(":
            self._marks.append(len(self._stack))
        elif step == b"]":
            self._stack.append([])
        elif step == b"}":
            self._stack.append({})
        else:
            self._build(step)

    def _build(self, step: bytes) -> None:
        """Steps that look at what is on the stack."""
        if step in (b"a", b"e"):
            items = [self.pop()] if step == b"a" else self._above_mark()
            self._top(list).extend(items)
        elif step in (b"s", b"u"):
            items = [self.pop(), self.pop()][::-1] if step == b"s" else self._above_mark()
            self._set(self._top(dict), items)
        elif step == b"c":
            self._stack.append(self._global(self._line(), self._line()))
        elif step == b"\x93":
            name, module = self.pop(), self.pop()
            self._stack.append(self._global(module, name))
        elif step == b"R":
            args, of = self.pop(), self.pop()
            if not isinstance(args, tuple) or not isinstance(of, Global):
                raise Refused("is broken")
            self._stack.append(Made(of, args))
        elif step == b"b":
            state = self.pop()
            self._top(Made).state = state
        else:
            raise Refused(f"has a step {step!r}, which no array of bytes needs")

    def _span(self, size: int) -> Span:
        start = self._at
        if size > len(self._file) - start:
            raise Refused("ends too early")
        self._at += size
        return Span(start, self._at)

    def _number(self, size: int, *, signed: bool = False) -> int:
        return int.from_bytes(self.take(size), "little", signed=signed)

    def _text(self, size: int) -> str:
        if size > MAX_TEXT:
            raise Refused(f"has a name of {size} bytes")
        try:
            return self.take(size).decode()
        except UnicodeDecodeError:
            raise Refused("has a name that is not UTF-8") from None

    def _line(self) -> str:
        end = self._file.find(b"\n", self._at, self._at + MAX_TEXT)
        if end < 0:
            raise Refused("is broken")
        return self._text(end + 1 - self._at)[:-1]

    def _top(self, kind: type[Any] = object) -> Any:
        value = self.pop()
        if not isinstance(value, kind):
            raise Refused("is broken")
        self._stack.append(value)
        return value

    def _get(self, key: int) -> None:
        if key not in self._memo:
            raise Refused("is broken")
        self._stack.append(self._memo[key])

    def _above_mark(self) -> list[Any]:
        if not self._marks:
            raise Refused("is broken")
        mark = self._marks.pop()
        items = self._stack[mark:]
        del self._stack[mark:]
        return items

    def _set(self, target: dict[str, Any], items: list[Any]) -> None:
        if len(items) % 2:
            raise Refused("is broken")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not isinstance(key, str):
                raise Refused("has a name that is not text")
            if key in target:
                raise Refused(f"names {key!r} twice")
            target[key] = value

    def _global(self, module: Any, name: Any) -> Global:
        if not isinstance(module, str) or not isinstance(name, str):
            raise Refused("is broken")
        if f"{module} {name}" not in NUMPY:
            raise Refused(f"names {module + '.' + name!r}, which no array of bytes needs")
        return Global(f"{module} {name}")
