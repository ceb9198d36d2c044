"""A module with other names than the store's is refused with the prefix that makes them equal."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import taskstore
from taskstore.errors import ModuleMismatch
from tests.support.modules import Named, holds


@pytest.mark.parametrize("start", ["model.", "_orig_mod.encoder."])
def test_the_prefix_is_named_and_works(start: str, packed: Path) -> None:
    store = taskstore.open(packed)
    state = {n: v for n, v in store.state_dict("alpha").items() if n.startswith("layers")}
    module = Named({start + name: value for name, value in state.items()})
    rest = ("embed*", "norm*", "scale")
    with pytest.raises(ModuleMismatch) as refused:
        taskstore.attach(module, store, ignore=rest)
    assert "attach with prefix=" in str(refused.value)
    prefix = ast.literal_eval(str(refused.value).split("attach with prefix=")[1])
    with taskstore.attach(module, store, prefix=prefix, ignore=rest) as family:
        family.swap("gamma")
    expected = store.state_dict("gamma", names=list(state))
    assert holds(module, {start + name: value for name, value in expected.items()})
