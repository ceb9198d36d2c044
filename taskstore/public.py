"""What every public function does with its arguments before it runs.

Their types are checked by the function's own annotations, so that a wrong one is an InputError of
one line, in the words of Python; `progress=True` draws a bar while the function runs.
"""

from __future__ import annotations

import inspect
import os
import sys
import types
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import fields
from functools import cache, wraps
from numbers import Integral, Real
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin

from taskstore.errors import InputError
from taskstore.progress import drawn

F = TypeVar("F", bound=Callable[..., Any])
_WORDS: Mapping[Any, str] = {
    str: "a string",
    bool: "True or False",
    int: "a whole number",
    float: "a number",
    os.PathLike: "a path",
    type(None): "None",
}


def public(function: F) -> F:
    """Make a function check the types of its arguments, and take `progress=True`."""
    signature = inspect.signature(function)

    @wraps(function)
    def called(*args: Any, **given: Any) -> Any:
        try:
            bound = signature.bind_partial(*args, **given)
        except TypeError:
            return function(*args, **given)  # Python's own error
        hints = _hints(function)
        for name, value in bound.arguments.items():
            _check(name, value, hints.get(name, Any))
        if bound.arguments.get("progress") is not True:
            return function(*args, **given)
        with drawn() as bar:
            bound.arguments["progress"] = bar
            return function(*bound.args, **bound.kwargs)

    return cast(F, called)


def check_fields(options: Any) -> None:
    """Raise InputError where a field of a dataclass is not of the type that it declares."""
    space = vars(sys.modules[type(options).__module__])
    for field in fields(options):
        where = f"{type(options).__name__}: {field.name}"
        _check(where, getattr(options, field.name), _evaluated(field.type, space))


@cache
def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    """The annotations of all parameters that take one value; *args and **options are free."""
    space = getattr(inspect.unwrap(function), "__globals__", {})
    every = inspect.signature(function).parameters.values()
    single = [p for p in every if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    return {p.name: _evaluated(p.annotation, space) for p in single}


def _evaluated(annotation: Any, space: Mapping[str, Any]) -> Any:
    """The type that an annotation means; Any where it names what only type checkers import."""
    if annotation is inspect.Parameter.empty:
        return Any
    if not isinstance(annotation, str):
        return annotation
    try:
        return eval(annotation, dict(space))  # an annotation of our own source
    except NameError:
        return Any


def _check(where: str, value: Any, hint: Any) -> None:
    if not _fits(value, hint):
        if isinstance(value, Mapping) and get_origin(hint) in (dict, Mapping):
            for name, one in value.items():
                _check(f"{where}[{name!r}]", one, get_args(hint)[1])
        kind = type(value).__name__
        shown = repr(value) if len(repr(value)) <= 80 else f"{repr(value)[:80]}..."
        what = "None" if value is None else f"{shown} ({kind})"
        raise InputError(f"{where} is {what}, not {_described(hint)}")


def _fits(value: Any, hint: Any) -> bool:
    """Tell whether a value is of a type; what this does not know fits."""
    kind: Any = get_origin(hint) or hint
    inner = get_args(hint)
    if kind in (Union, types.UnionType):
        return any(_fits(value, one) for one in inner)
    if kind is Literal:
        return any(value == one and type(value) is type(one) for one in inner)
    if hint is None:
        return value is None
    if kind is float or kind is int:
        number = Real if kind is float else Integral
        return isinstance(value, number) and not isinstance(value, bool)
    if hint is Any or not isinstance(kind, type):
        return True
    if not issubclass(kind, Iterable):
        return isinstance(value, kind)
    if not isinstance(value, kind) or (isinstance(value, str | bytes) and kind is not str):
        return False
    if isinstance(value, Mapping) and len(inner) == 2:
        return all(_fits(k, inner[0]) and _fits(v, inner[1]) for k, v in value.items())
    if inner and isinstance(value, Collection):
        return all(_fits(one, inner[0]) for one in value)
    return True


def _described(hint: Any) -> str:
    kind, inner = get_origin(hint) or hint, get_args(hint)
    if kind in (Union, types.UnionType):
        words = [_described(one) for one in inner]
        paths = "a string" in words and "a path" in words
        return " or ".join(dict.fromkeys(w for w in words if w != "a string" or not paths))
    if kind is Literal:
        return " or ".join(map(repr, inner))
    if hint is None or kind in _WORDS:
        return "None" if hint is None else _WORDS[kind]
    if isinstance(kind, type) and issubclass(kind, Mapping) and len(inner) == 2:
        return f"a dict: name -> {_described(inner[1])}"
    if isinstance(kind, type) and issubclass(kind, Collection) and inner:
        return f"a list of {_described(inner[0]).removeprefix('a ').removeprefix('an ')}s"
    return "a function" if kind is Callable else f"a {getattr(kind, '__name__', kind)}"
