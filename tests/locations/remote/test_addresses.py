"""What is an address, what is a path."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskstore.errors import BadName
from taskstore.locations.remote.addresses import Address, parse


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("org/base", Address("hf", "org/base")),
        ("org/ft@v3", Address("hf", "org/ft", revision="v3")),
        ("org/ft@refs/pr/12", Address("hf", "org/ft", revision="refs/pr/12")),
        ("hf://org/ft2", Address("hf", "org/ft2")),
        ("hf://gpt2", Address("hf", "gpt2")),
        ("hf://models/org/ft2", Address("hf", "org/ft2")),
        ("hf://org/ft@refs%2Fpr%2F1/sub/x/", Address("hf", "org/ft", "sub/x", "refs/pr/1")),
        ("hf://org/ft@feature%2Fone", Address("hf", "org/ft", revision="feature/one")),
        ("s3://bucket/a/b", Address("s3", "bucket", "a/b")),
        ("gs://bucket", Address("gs", "bucket")),
        ("az://container/family/", Address("az", "container", "family")),
    ],
)
def test_an_address(text: str, address: Address) -> None:
    assert parse(text) == address
    assert parse(Path(text)) == address  # which has one "/" of two
    assert parse(str(address)) == address


@pytest.mark.parametrize(
    "text",
    [
        "base",
        "./org/base",
        "../org/base",
        "/org/base",
        "~/base",
        "a/b/c",
        "org/",
        "",
        "org/..",
        "a\0",
    ],
)
def test_a_path(text: str) -> None:
    assert parse(text) is None


def test_a_path_that_exists_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert parse("org/base") == Address("hf", "org/base")
    (tmp_path / "org/base").mkdir(parents=True)
    assert parse("org/base") is None
    assert parse("hf://org/base") == Address("hf", "org/base")
    (tmp_path / "org/link").symlink_to("nowhere")
    assert parse("org/link") is None


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("hf://", "not of the form"),
        ("hf://../x", "not of the form"),
        ("hf://datasets/org/data", "dataset"),
        ("hf://org/x/a/../b", "leaves"),
        ("s3://", "not of the form"),
        ("s3://bucket/../other", "leaves"),
        ("s3://bucket//x//y", "leaves"),
        ("ftp://host/x", "no known kind; there are hf://, s3://"),
    ],
)
def test_an_address_that_is_none(text: str, problem: str) -> None:
    with pytest.raises(BadName, match=problem):
        parse(text)


@given(st.text())
def test_any_text_is_an_address_a_path_or_refused(text: str) -> None:
    try:
        found = parse("hf://" + text)
    except BadName:
        return
    assert found is not None and ".." not in found.path.split("/")
