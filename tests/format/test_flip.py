"""One wrong byte anywhere in a store: verify finds it, unpack refuses it, nothing is written."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import taskstore
from taskstore.errors import TaskstoreError
from taskstore.format.names import CARD
from taskstore.store.verify import verify


@pytest.fixture(scope="module")
def store(packed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(shutil.copytree(packed, tmp_path_factory.mktemp("flip") / "store"))


def is_found(store: Path) -> bool:
    try:
        return not verify(taskstore.open(store)).ok
    except TaskstoreError:
        return True


def is_refused(store: Path) -> bool:
    target = store.parent / "out"
    try:
        taskstore.open(store).unpack_all(target)
    except TaskstoreError:
        assert not target.exists()
        return True
    shutil.rmtree(target)
    return False


@given(st.data())
def test_a_flipped_byte(store: Path, data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(sorted(p for p in store.rglob("*") if p.is_file())))
    raw = path.read_bytes()
    position = data.draw(st.integers(0, len(raw) - 1))
    flipped = data.draw(st.integers(1, 255))
    path.write_bytes(raw[:position] + bytes([raw[position] ^ flipped]) + raw[position + 1 :])
    try:
        assert is_found(store)
        assert path.name == CARD or is_refused(store)  # the card is for people
    finally:
        path.write_bytes(raw)


@given(st.data())
def test_a_cut_or_grown_file(store: Path, data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(sorted(p for p in store.rglob("*") if p.is_file())))
    raw = path.read_bytes()
    length = data.draw(st.integers(0, len(raw) - 1))
    path.write_bytes(data.draw(st.sampled_from([raw[:length], raw + b"\0", raw + raw])))
    try:
        assert is_found(store)
        assert path.name == CARD or is_refused(store)  # the card is for people
    finally:
        path.write_bytes(raw)


def test_the_store_was_whole(store: Path) -> None:
    assert not is_found(store)
    assert not is_refused(store)
