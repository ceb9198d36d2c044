"""A proof takes chunks in any order, keeps few of them, and decodes what never came."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import taskstore
from taskstore.errors import ChecksumMismatch
from taskstore.executors import threads
from taskstore.store.proof import Proof
from taskstore.store.rebuild import ModelReader
from tests.support import forge

W = "layers.1.mlp.weight"  # 4 chunks


@contextmanager
def reading(path: Path) -> Iterator[ModelReader]:
    store = taskstore.open(path)
    with store.open_base() as base, store.reader("alpha", base) as reader:
        yield reader


@pytest.fixture(scope="module")
def spoilt(packed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of `small` whose mask of W is another."""
    path = tmp_path_factory.mktemp("spoilt") / "store"
    shutil.copytree(packed, path)
    forge.swap_chunks(path, "tasks/alpha/masks.safetensors", W, 4)
    return path


@given(order=st.lists(st.integers(0, 3), max_size=12), waiting=st.integers(0, 3))
def test_any_order_of_any_chunks(
    order: list[int], waiting: int, packed: Path, spoilt: Path
) -> None:
    with reading(packed) as reader:
        proof = Proof(reader, waiting)
        for k in order:
            proof.add(W, k, reader.chunk(W, k))
            assert len(proof._waiting) <= waiting
        proof.finish(threads(1))
        assert not proof._waiting
    with reading(spoilt) as reader:
        proof = Proof(reader, waiting)

        def read() -> None:
            for k in order:
                proof.add(W, k, reader.chunk(W, k))
            proof.finish(threads(1))

        for _ in range(2 if order else 0):  # it stays wrong
            with pytest.raises(ChecksumMismatch, match=f"tensor '{W}' of task 'alpha'"):
                read()


def test_what_was_never_read_is_not_proved(spoilt: Path) -> None:
    with reading(spoilt) as reader:
        proof = Proof(reader, 4)
        for k in range(reader.chunk_count("embed_tokens.weight")):
            proof.add("embed_tokens.weight", k, reader.chunk("embed_tokens.weight", k))
        proof.finish(threads(1))
