"""`taskstore unpack STORE TASK -o -`: one safetensors file on standard output, and nothing else."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load, load_file

import taskstore
from taskstore.errors import ChecksumMismatch
from taskstore.progress import silent
from taskstore.store.rebuild import ModelReader
from taskstore.store.unpack import UnpackOptions, stream
from tests.support.families import Family

UNPACK = [sys.executable, "-m", "taskstore_cli", "unpack"]


def to_pipe(*words: object) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([*UNPACK, *map(str, words), "-o", "-"], capture_output=True, check=False)


def test_the_stream_has_the_tensors_of_the_folder(packed: Path, tmp_path: Path) -> None:
    done = to_pipe(packed, "alpha")
    assert done.returncode == 0 and b"alpha: approximate" in done.stderr
    taskstore.open(packed).unpack("alpha", tmp_path / "model")
    wanted = load_file(tmp_path / "model" / "model.safetensors")
    found = load(done.stdout)
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_an_exact_task_is_the_file_that_it_was(small: Family, tmp_path: Path) -> None:
    store = tmp_path / "store"
    taskstore.pack(small.base_path, small.paths, store, taskstore.PackOptions(tiers="exact"))
    (original,) = Path(small.paths["alpha"]).glob("*.safetensors")
    assert to_pipe(store, "alpha", "-q").stdout == original.read_bytes()


def test_a_damaged_model_does_not_come_out_whole(packed: Path, tmp_path: Path) -> None:
    """A file's checksum is wrong before anything is written; a tensor's, before its last block."""
    damaged = tmp_path / "damaged"
    shutil.copytree(packed, damaged)
    path = damaged / taskstore.open(packed).files_of("alpha")[0]
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)
    done = to_pipe(damaged, "alpha")
    assert done.returncode == 1 and done.stderr.startswith(b"error: ") and not done.stdout


def test_the_last_block_waits_for_the_tensor_s_proof(
    packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(self: ModelReader, *_: object) -> None:
        raise ChecksumMismatch(self.label, "a", "b")

    monkeypatch.setattr(ModelReader, "check", wrong)
    out = tmp_path / "out"
    with out.open("wb") as file, pytest.raises(ChecksumMismatch):
        stream(taskstore.open(packed), "alpha", file.fileno(), UnpackOptions(), silent)
    with pytest.raises(SafetensorError):
        load(out.read_bytes())


def test_a_terminal_gets_no_model(packed: Path) -> None:
    ours, theirs = os.openpty()
    try:
        done = subprocess.run(
            [*UNPACK, str(packed), "alpha", "-o", "-"],
            stdout=theirs,
            stderr=subprocess.PIPE,
            check=False,
        )
        os.set_blocking(ours, False)
        with pytest.raises(BlockingIOError):
            os.read(ours, 1)
    finally:
        os.close(ours)
        os.close(theirs)
    assert done.returncode == 2 and b"not for a terminal" in done.stderr


@pytest.mark.parametrize("word", ["--all", "--adapter", "--json", "--shard-size=1GB"])
def test_one_file_of_one_model(packed: Path, word: str) -> None:
    done = to_pipe(packed, word, *([] if word == "--all" else ["alpha"]))
    assert done.returncode == 2 and not done.stdout


def test_a_reader_that_leaves_ends_it(packed: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [*UNPACK, str(packed), "alpha", "-o", "-"],
        stdout=writing,
        stderr=subprocess.PIPE,
        check=False,
    )
    os.close(writing)
    assert done.returncode == 141 and b"Traceback" not in done.stderr


def test_a_closed_output_gets_no_model(packed: Path) -> None:
    """Else the first file that is opened would be written to: it has the number of the output."""
    words = ["sh", "-c", 'exec "$@" >&-', "sh", *UNPACK, str(packed), "alpha", "-o", "-"]
    done = subprocess.run(words, stderr=subprocess.PIPE, check=False)
    assert done.returncode == 2 and b"standard output is closed" in done.stderr
    assert b"Traceback" not in done.stderr


def test_a_dry_run_says_on_stderr_what_it_would_do(packed: Path) -> None:
    done = to_pipe(packed, "alpha", "--dry-run")
    assert (done.returncode, done.stdout) == (0, b"")
    assert b"would read" in done.stderr and b"nothing was written" in done.stderr
