"""What Git LFS leaves until a file is fetched is called that, wherever a model has it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import taskstore
from taskstore.errors import CheckpointError
from taskstore.locations.pointers import pointer
from tests.support.broken import one_line
from tests.support.families import options, random_state, save, tuned

LFS = (
    "version https://git-lfs.github.com/spec/v1\n"
    f"oid sha256:{'ab' * 32}\nsize {{size}}\n"
)  # fmt: skip
TEXT = LFS.format(size=17209920)
OLD = TEXT.replace("git-lfs.github.com/spec/v1", "hawser.github.com/spec/v1")
INDEX = {"metadata": {}, "weight_map": {"a": "model-00001-of-00001.safetensors"}}
FETCH = "is a Git LFS pointer to 17209920 bytes, not the file; run `git lfs pull`"

IN_PLACE: dict[str, dict[str, str]] = {
    "weights": {"model.safetensors": TEXT},
    "an old pointer": {"model.safetensors": OLD},
    "lines of Windows": {"model.safetensors": TEXT.replace("\n", "\r\n")},
    "a pickle": {"pytorch_model.bin": TEXT},
    "a shard": {
        "model-00001-of-00001.safetensors": TEXT,
        "model.safetensors.index.json": json.dumps(INDEX),
    },
    "an index": {"model.safetensors.index.json": TEXT},
    "adapter weights": {"adapter_model.safetensors": TEXT, "adapter_config.json": "{}"},
    "an adapter in a pickle": {"adapter_model.bin": TEXT, "adapter_config.json": "{}"},
}
BESIDE = ("config.json", "tokenizer.json", "spiece.model", "chat_template.jinja", "vocab.txt")
FURTHER = ("adapter_config.json", "2_Dense/model.safetensors", "2_Dense/pytorch_model.bin")


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, newline="")
    return folder


def family(root: Path) -> tuple[Path, Path]:
    state = random_state(0)
    return save(root / "base", state), save(root / "tuned", tuned(state, 1))


def refused(base: Path, task: Path, named: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        taskstore.pack(base, {"t": task}, base.parent / "store", options())
    one_line(caught.value, str(named), FETCH)
    assert not (base.parent / "store").exists()


@pytest.mark.parametrize("kind", IN_PLACE)
def test_weights(kind: str, tmp_path: Path) -> None:
    base, _ = family(tmp_path)
    folder = write(tmp_path / "pointer", IN_PLACE[kind])
    first = next(name for name, text in IN_PLACE[kind].items() if "oid" in text)
    refused(base, folder, folder / first)
    if "adapter" not in kind:
        refused(folder, base, folder / first)


def test_a_file_that_is_named(tmp_path: Path) -> None:
    base, _ = family(tmp_path)
    folder = write(tmp_path / "pointer", {"some.safetensors": TEXT})
    refused(base, folder / "some.safetensors", folder / "some.safetensors")


@pytest.mark.parametrize("name", [*BESIDE, *FURTHER[1:]])
def test_files_beside_the_weights(name: str, tmp_path: Path) -> None:
    base, task = family(tmp_path)
    write(task, {name: TEXT})
    refused(base, task, task / name)


def test_the_config_of_an_adapter(tmp_path: Path) -> None:
    base, task = family(tmp_path)
    (task / "model.safetensors").rename(task / "adapter_model.safetensors")
    write(task, {"adapter_config.json": TEXT})
    refused(base, task, task / "adapter_config.json")


def test_what_would_not_be_carried_is_no_reason_to_refuse(tmp_path: Path) -> None:
    """A picture, a copy in another format, and what is too large as a file."""
    base, task = family(tmp_path)
    large = LFS.format(size=16 << 30)
    left = ("pytorch_model.bin", "onnx/model.onnx", "figure.png", "original/consolidated.00.pth")
    write(task, {name: large if "original" in name else TEXT for name in left})
    report = taskstore.pack(base, {"t": task}, tmp_path / "store", options())
    assert all(any(name in warning for warning in report.warnings) for name in left)


@pytest.mark.parametrize(
    "text",
    ["", "{}", "version 2\n", TEXT + " " * 1024, " " + TEXT, "see https://git-lfs.github.com"],
)
def test_other_files(text: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text(text)
    assert pointer(tmp_path / "file") is None
    assert pointer(tmp_path / "missing") is None


def test_git_annex(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("/annex/objects/SHA256E-s17--abc.safetensors\n")
    found = pointer(tmp_path / "file")
    assert found is not None
    assert "git annex get" in found.problem
