"""Read a YAML document as nodes that know their place, so that every error names it."""

from __future__ import annotations

import difflib
import math
import reprlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import yaml

from taskstore.errors import InputError
from taskstore.locations.files import read_regular

MAX_BYTES = 1 << 18  # recipes have a few kilobytes
_SHORT = reprlib.Repr()
_SHORT.maxlevel = 1  # aliases make much of little
_shown = _SHORT.repr


@dataclass(frozen=True)
class Node:
    """A value of a document and its place: "" for the whole, models[1], models[1].parameters."""

    file: Path
    where: str
    value: Any

    def fail(self, problem: str) -> NoReturn:
        raise InputError(f"{self.file}: {self.where or 'the recipe'} {problem}")

    def child(self, name: str, value: Any) -> Node:
        return Node(self.file, f"{self.where}.{name}" if self.where else name, value)

    def members(self, known: Iterable[str]) -> dict[str, Node]:
        """The members of a mapping that are not null; raises InputError for an unknown key."""
        if self.value is None:
            return {}
        if not isinstance(self.value, dict):
            self.fail(f"is {_shown(self.value)}, not a mapping")
        names = list(known)
        for key in self.value:
            if key not in names:
                near = difflib.get_close_matches(str(key), names, n=1, cutoff=0.5)
                hint = f"did you mean {near[0]!r}?" if near else f"it may have {', '.join(names)}"
                self.fail(f"has an unknown key {_shown(key)}; {hint}")
        return {k: self.child(k, v) for k, v in self.value.items() if v is not None}

    def items(self) -> list[Node]:
        if not isinstance(self.value, list):
            self.fail(f"is {_shown(self.value)}, not a list")
        return [Node(self.file, f"{self.where}[{i}]", v) for i, v in enumerate(self.value)]

    def text(self) -> str:
        if not isinstance(self.value, str) or not self.value:
            self.fail(f"is {_shown(self.value)}, not a text")
        return str(self.value)

    def number(self) -> float:
        """A finite number; also a text such as 1e-3, which is no number in YAML 1.1."""
        try:
            number = math.nan if isinstance(self.value, bool) else float(self.value)
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        if not math.isfinite(number):
            self.fail(f"is {_shown(self.value)}, not a finite number")
        return number

    def whole(self, least: int, most: int | None = None) -> int:
        number = self.number()
        if number != int(number) or number < least or (most is not None and number > most):
            up = "" if most is None else f" to {most}"
            self.fail(f"is {_shown(self.value)}, not a whole number from {least}{up}")
        return int(number)

    def named(self) -> dict[str, Node]:
        """The members of a mapping of any names."""
        if not isinstance(self.value, dict) or not all(isinstance(k, str) for k in self.value):
            self.fail(f"is {_shown(self.value)}, not a mapping of texts")
        return {k: self.child(_shown(k), v) for k, v in self.value.items()}

    def flag(self) -> bool:
        if not isinstance(self.value, (bool, int, float)) or self.value not in (0, 1):
            self.fail(f"is {_shown(self.value)}, not true or false")
        return bool(self.value)

    def at(self, tensor: str, depth: float) -> Node | None:
        """The value for one tensor; None where no filter takes it.

        A list of numbers is a gradient over the layers: `depth` 0 is its first, 1 its last. A list
        of {value, filter} is read from above: the first whose filter is part of the tensor's name.
        """
        if isinstance(self.value, dict) or (isinstance(self.value, list) and self._filtered()):
            for part in self.items() if isinstance(self.value, list) else [self]:
                given = part.members(("value", "filter"))
                if "value" not in given:
                    part.fail("has no value")
                wanted = given["filter"].text() if "filter" in given else "*"
                value = given["value"]
                if isinstance(value.value, dict) or (
                    isinstance(value.value, list) and value._filtered()
                ):
                    value.fail("has filters inside a filter; give a number or a gradient")
                if wanted == "*" or wanted in tensor:
                    return value.at(tensor, depth)
            return None
        if not isinstance(self.value, list):
            return self
        numbers = [item.number() for item in self.items()] or [self.number()]
        place = depth * (len(numbers) - 1)
        below = min(int(place), len(numbers) - 1)
        above, share = min(below + 1, len(numbers) - 1), place - below
        return Node(self.file, self.where, (1 - share) * numbers[below] + share * numbers[above])

    def _filtered(self) -> bool:
        return any(isinstance(part, dict) for part in self.value)

    @property
    def single(self) -> bool:
        """Whether it is one value for the whole model."""
        return not isinstance(self.value, (list, dict))


def load(path: Path) -> Node:
    """The document of a file; raises InputError unless it is a mapping of a recipe's size."""
    try:
        data = read_regular(path, MAX_BYTES)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    try:
        document = yaml.load(data, _Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f"line {mark.line + 1}: " if mark is not None else ""
        problem = getattr(error, "problem", None) or "it cannot be read"
        raise InputError(f"{path}: is not YAML: {line}{problem}") from None
    if not isinstance(document, dict):
        raise InputError(f"{path}: holds {_shown(document)}, not a mapping with a merge_method")
    return Node(path, "", document)


class _Loader(yaml.SafeLoader):  # type: ignore[misc]  # PyYAML has no types
    """A loader that refuses duplicate keys, and merge keys, which can grow without bound."""

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        seen = set()
        for key, _ in node.value:
            problem = "merge keys (<<) are not read" if key.tag.endswith(":merge") else None
            if isinstance(key, yaml.ScalarNode):
                problem = f"{_shown(key.value)} stands twice" if key.value in seen else problem
                seen.add(key.value)
            if problem:
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)


# A date is the text that stands there: no key takes one, and a folder may be named so. (Other
# libraries change what SafeLoader makes of dates for their whole process; this keeps its rule.)
_Loader.add_constructor("tag:yaml.org,2002:timestamp", yaml.SafeLoader.construct_yaml_str)
