"""Text out of a store or a model that was not made with care never reaches a terminal as it is."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from safetensors.torch import save_file
from taskstore_cli.main import main

import taskstore
from taskstore.errors import TaskstoreError
from tests.support import families, forge
from tests.support.broken import W, entry, one_line
from tests.support.forge import Document

ESCAPE = "\x1b[31m\x07\n"
HALF = "\ud800"
MARKUP = "[/] [red]loud[/red] [link=file:///x]"

FIELDS: dict[str, Callable[[Document, str], object]] = {
    "writer": lambda d, text: d.update(writer=text),
    "name of the base": lambda d, text: d["base"].update(name=text),
    "source of the base": lambda d, text: d["base"].update(source=text),
    "revision of the base": lambda d, text: d["base"].update(revision=text),
    "method": lambda d, text: d["merge"].update(method=text),
    "option": lambda d, text: d["merge"]["options"].update({text: 1.0}),
    "origin": lambda d, text: d["tasks"]["alpha"].update(origin=text),
    "source": lambda d, text: d["tasks"]["alpha"].update(source=text),
    "reason": lambda d, text: entry(d).update(
        kind="private", dtype="F32", shape=[2], reason=text
    ),
}  # fmt: skip


@pytest.fixture
def store(packed: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(packed, tmp_path / "store"))


@pytest.mark.parametrize("text", [ESCAPE, HALF], ids=["escape", "half a character"])
@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("json_wanted", [False, True], ids=["table", "json"])
def test_info(store: Path, field: str, text: str, json_wanted: bool) -> None:
    """Refused, or printed without what moves a cursor; never a traceback."""
    forge.edit(store, lambda d: FIELDS[field](d, text))
    done = CliRunner().invoke(main, ["info", str(store), *(["--json"] if json_wanted else [])])
    assert done.exception is None or isinstance(done.exception, SystemExit)
    assert not set(done.output) & {"\x1b", "\x07", HALF}
    if json_wanted and done.exit_code == 0:
        json.loads(done.output)


@pytest.mark.parametrize("field", FIELDS)
def test_markup_is_shown_as_it_is(store: Path, field: str) -> None:
    """What a terminal library would take for its own tags is text of the store's."""
    forge.edit(store, lambda d: FIELDS[field](d, MARKUP))
    done = CliRunner().invoke(main, ["info", str(store)])
    if field == "reason":  # of another kind of tensor, which the store has no file for
        assert done.exit_code == 1
        return
    assert done.exception is None
    hidden = field in ("origin", "source")
    assert hidden or MARKUP in " ".join(done.output.split())


def test_names_of_strange_files_beside_a_store(store: Path) -> None:
    for name in (b"a\x1b[31m", b"b\xff", b"[red]"):
        (Path(store) / os.fsdecode(name)).write_bytes(b"")
    done = CliRunner().invoke(main, ["verify", str(store)])
    assert done.exception is None or isinstance(done.exception, SystemExit)
    assert "\x1b" not in done.output
    assert "[red]" in done.output


@pytest.mark.parametrize("text", [ESCAPE, HALF], ids=["escape", "half a character"])
@pytest.mark.parametrize(
    "change",
    [
        lambda d, text: d.update({text: 1}),
        lambda d, text: entry(d).update({text: 1}),
        lambda d, text: entry(d).update(kind=text),
        lambda d, text: d["tensors"][W].update(dtype=text),
        lambda d, text: d["tensors"][W].update(codec=text),
        lambda d, text: d["tensors"][W].update(multitask=text),
        lambda d, text: d["tasks"].update({text: d["tasks"]["alpha"]}),
        lambda d, text: d["files"].update({text: d["files"]["README.md"]}),
        lambda d, text: d["assets"].update({text: next(iter(d["assets"].values()))}),
    ],
    ids=["member", "inner member", "kind", "dtype", "codec", "multitask", "task", "file", "asset"],
)
def test_messages_of_errors(
    store: Path, change: Callable[[Document, str], object], text: str
) -> None:
    forge.edit(store, lambda d: change(d, text))
    with pytest.raises(TaskstoreError) as caught:
        taskstore.open(store)
    one_line(caught.value)
    assert "\x1b" not in str(caught.value)


def test_messages_of_a_referenced_base(small: families.Family, tmp_path: Path) -> None:
    taskstore.pack(small.base_path, small.paths, tmp_path / "s", families.options(base="reference"))
    forge.edit(tmp_path / "s", lambda d: d["base"].update(source=f"/nowhere/{ESCAPE}"))
    with pytest.raises(TaskstoreError) as caught:
        taskstore.open(tmp_path / "s").state_dict("alpha")
    one_line(caught.value)
    assert "\x1b" not in str(caught.value)


def test_messages_of_a_model(tmp_path: Path) -> None:
    state = {f"a{ESCAPE}b": families.random_state(0)["norm.weight"]}
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(TaskstoreError, match="control character") as caught:
        taskstore.models.open_checkpoint(tmp_path)
    one_line(caught.value)
    assert "\x1b" not in str(caught.value)
