"""What a merge method has seen goes to another process as plain data, and nothing else does."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from taskstore.errors import FormatError
from taskstore.merging.methods import make
from taskstore.merging.methods.fitted import put_state, state_of


def test_a_method_gets_what_another_saw() -> None:
    one, other = make("dare", {"p": 0.5}), make("dare", {"p": 0.5})
    inner = make("ties", {})
    vars(one).update(_names=["a", "b"], _inner=inner)
    vars(other).update(_inner=make("ties", {}))
    inner._trim._found = {"": np.array([1.5, -0.0], np.float32)}  # type: ignore[attr-defined]
    inner._majority = np.float32(-1)  # type: ignore[attr-defined]
    put_state(other, state_of(one))
    assert state_of(other) == state_of(one)
    seen = vars(other)["_inner"]
    assert seen._trim._found[""].tobytes() == inner._trim._found[""].tobytes()  # type: ignore[attr-defined]
    assert isinstance(seen._majority, np.float32)


def test_a_class_is_not_changed() -> None:
    """What lies on a shared disk sets what a method saw, and never what others of it do."""
    method, state = make("sum", {}), ["object", {"doc": "x"}]
    for name in ("__class__", "fit"):
        with pytest.raises(FormatError, match="cannot be read"):
            put_state(method, msgspec.msgpack.encode({name: state}))
    assert not hasattr(type(method), "doc")


@pytest.mark.parametrize(
    "state", [b"", b"\x93", b"\x81\xa1a\x92\xa5array\x01", b"\x81\xa1a\x91\xa6object"]
)
def test_what_is_no_state_is_refused(state: bytes) -> None:
    with pytest.raises(FormatError, match="cannot be read"):
        put_state(make("sum", {}), state)
