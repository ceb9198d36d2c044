"""What a merge method has seen of a family, as plain data, for others that merge with it."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np

from taskstore.errors import FormatError


def state_of(method: object) -> bytes:
    """Return the attributes of a method that was fitted, and of the objects in it."""
    return msgspec.msgpack.encode(_plain_of(method))


def put_state(method: object, state: bytes) -> None:
    """Give a method that was made with the same options what `state_of` returned.

    Raises FormatError for what it cannot be.
    """
    try:
        _put(method, msgspec.msgpack.decode(state))
    except (msgspec.MsgspecError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise FormatError(f"what the merge method saw cannot be read: {error}") from None


def _plain_of(value: object) -> Any:
    return {name: _plain(own) for name, own in vars(value).items()}


def _plain(value: Any) -> Any:
    match value:
        case None | bool() | int() | float() | str():
            return value
        case np.generic() | np.ndarray():
            array = np.asarray(value)
            return ["array", array.dtype.str, list(array.shape), array.tobytes()]
        case dict():
            return ["dict", [[_plain(key), _plain(own)] for key, own in value.items()]]
        case list() | tuple() | frozenset():
            kind = type(value).__name__
            return [kind, [*map(_plain, sorted(value) if kind == "frozenset" else value)]]
    return ["object", _plain_of(value)]


def _put(target: object, attributes: dict[str, Any]) -> None:
    for name, plain in attributes.items():
        if name.startswith("__") or callable(getattr(type(target), name, None)):
            raise KeyError(name)  # such as "__class__", which all of a process would see
        if isinstance(plain, list) and plain[0] == "object":
            _put(getattr(target, name), plain[1])
        else:
            setattr(target, name, _value(plain))


def _value(plain: Any) -> Any:
    if not isinstance(plain, list):
        return plain
    kind, *rest = plain
    if kind == "array":
        dtype, shape, data = rest
        found = np.frombuffer(data, np.dtype(dtype)).reshape(shape)
        return found.copy() if shape else found[()]
    makers: dict[str, Any] = {"dict": dict, "list": list, "tuple": tuple, "frozenset": frozenset}
    return makers[kind](tuple(map(_value, one)) if kind == "dict" else _value(one)
                        for one in rest[0])  # fmt: skip
