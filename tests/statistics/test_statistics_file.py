"""The statistics file: what goes in comes out, and everything that is refused."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

import taskstore
from taskstore.errors import InputError, StatisticsError
from taskstore.executors import threads
from taskstore.format.digests import model_digest
from taskstore.models import digest_of, open_checkpoint
from taskstore.statistics import About, Statistics
from taskstore.statistics.statistics_file import is_statistics
from taskstore.statistics.writer import StatisticsWriter
from tests.support.families import Family

Arrays = Mapping[tuple[str, str], NDArray[np.float32]]


@dataclass(frozen=True)
class Shape:
    shape: tuple[int, ...]


def about(**changes: Any) -> About:
    fields = {
        "name": "billing", "model": "a" * 64, "data": "b" * 64, "examples": 3, "positions": 40,
        "truncated": 1, "max_length": 64, "loss": "minus log p", "labels": "sampled", "samples": 1,
        "seed": 7,
    }  # fmt: skip
    return About(**{**fields, **changes})


def write(path: Path, arrays: Arrays, what: About | None = None) -> Path:
    path.touch()
    shapes = {key: value.shape for key, value in arrays.items()}
    with StatisticsWriter(path, what or about(), shapes) as writer:
        for (kind, tensor), value in reversed(list(arrays.items())):
            flat = value.reshape(-1)
            writer.put(kind, tensor, [flat[:3], flat[3:]])
    return path


def example() -> dict[tuple[str, str], NDArray[np.float32]]:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((9, 4)).astype(np.float32)
    return {
        ("fisher", "a.weight"): rng.random((5, 4), np.float32),
        ("fisher", "scale"): np.array(2, np.float32),
        ("hessian", "a.weight"): rng.random((5, 4), np.float32),
        ("gram", "a.weight"): (x.T @ x / 9).astype(np.float32),
    }


MODEL = {"a.weight": Shape((5, 4)), "scale": Shape(()), "ids": Shape((9,))}


def test_what_goes_in_comes_out(tmp_path: Path) -> None:
    arrays = example()
    what = about(shared=("a.weight",), name="é 7")
    path = write(tmp_path / "s.safetensors", arrays, what)
    with Statistics(path) as found:
        assert found.about == what
        assert (found.kinds, found.examples) == (("fisher", "hessian", "gram"), 3)
        assert found.digest == "a" * 64
        assert set(found.tensors("fisher")) == {"a.weight", "scale"}
        assert set(found.tensors("gram")) == {"a.weight"}
        assert found.shape("fisher", "scale") == ()
        whole = arrays["fisher", "a.weight"]
        assert np.array_equal(found.read("fisher", "a.weight", 3, 11), whole.reshape(-1)[3:11])
        assert np.array_equal(found.gram("a.weight"), arrays["gram", "a.weight"])
        found.check_model("billing", MODEL, "a" * 64)
    by_others = load_file(path)  # any reader of safetensors
    assert {f"{kind}/{tensor}" for kind, tensor in arrays} == set(by_others)
    for (kind, tensor), value in arrays.items():
        assert np.array_equal(by_others[f"{kind}/{tensor}"], value)


shapes = st.lists(st.integers(0, 5), max_size=3).map(tuple)
names = st.text("abc./_", min_size=1, max_size=8).map(lambda s: f"t{s}t")


@given(st.dictionaries(st.tuples(st.sampled_from(["fisher", "hessian"]), names), shapes), st.data())
def test_any_tensors(
    tmp_path_factory: pytest.TempPathFactory,
    layout: dict[tuple[str, str], tuple[int, ...]],
    data: st.DataObject,
) -> None:
    rng = np.random.default_rng(len(layout))
    arrays = {key: rng.random(shape, np.float32) for key, shape in layout.items()}
    path = write(tmp_path_factory.mktemp("any") / "s", arrays)
    with Statistics(path) as found:
        for (kind, tensor), value in arrays.items():
            start = data.draw(st.integers(0, value.size))
            stop = data.draw(st.integers(start, value.size))
            assert found.shape(kind, tensor) == value.shape
            block = found.read(kind, tensor, start, stop)
            assert np.array_equal(block, value.reshape(-1)[start:stop])


def test_values_that_no_statistic_has(tmp_path: Path) -> None:
    for kind, value, message in (
        ("fisher", np.nan, "holds NaN or Inf"),
        ("hessian", np.inf, "holds NaN or Inf"),
        ("gram", np.nan, "holds NaN or Inf"),
        ("fisher", -1.0, "holds a negative value, which no square is"),
        ("gram", -1.0, "holds a negative value on its diagonal"),
    ):
        arrays = {f"{key[0]}/{key[1]}": v.copy() for key, v in example().items()}
        arrays[f"{kind}/a.weight"][1, 1] = value
        path = tmp_path / "s"
        save_file(arrays, path, metadata=about().metadata())
        with Statistics(path) as found, pytest.raises(StatisticsError) as caught:
            found.gram("a.weight") if kind == "gram" else found.read(kind, "a.weight", 0, 20)
        assert f"{kind} of tensor 'a.weight' {message}" in str(caught.value)
    with Statistics(path) as found:
        assert found.read("fisher", "a.weight", 0, 5).shape == (5,)
        with pytest.raises(StatisticsError, match="has no hessian of tensor 'scale'; it can be"):
            found.read("hessian", "scale", 0, 1)


def test_the_writer_refuses_them_too(tmp_path: Path) -> None:
    arrays = example()
    arrays["fisher", "a.weight"][4, 3] = np.inf
    with pytest.raises(InputError, match=r"the fisher of tensor 'a.weight' holds NaN or Inf"):
        write(tmp_path / "s", arrays)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.pop("a.weight"), "it has no tensor 'a.weight'"),
        (lambda m: m.update({"a.weight": Shape((4, 5))}), r"fisher of 'a.weight' is \[5, 4\], not"),
        (lambda m: m.update({"scale": Shape((1,))}), r"'scale' is \[\], not \[1\]"),
        (lambda m: m.update({"digest": "c" * 64}), "its weights are cccccccccccccccc"),
    ],
)
def test_another_model(
    tmp_path: Path, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    model: dict[str, Any] = dict(MODEL)
    change(model)
    digest = model.pop("digest", "a" * 64)
    with (
        Statistics(write(tmp_path / "s", example())) as found,
        pytest.raises(StatisticsError, match=message) as caught,
    ):
        found.check_model("legal", model, digest)
    assert "statistics of another model (billing), not of legal" in str(caught.value)
    assert "`taskstore measure legal --data FILE.jsonl -o s`" in str(caught.value)


def test_the_gram_of_a_transposed_weight(tmp_path: Path) -> None:
    arrays = {("gram", "w"): np.eye(4, dtype=np.float32)}
    straight = write(tmp_path / "a", arrays)
    transposed = write(tmp_path / "b", arrays, about(transposed=("w",)))
    for path, good, bad in ((straight, (7, 4), (4, 7)), (transposed, (4, 7), (7, 4))):
        with Statistics(path) as found:
            found.check_model("m", {"w": Shape(good)}, "a" * 64)
            for shape in (bad, (4,), (4, 4, 4)):
                with pytest.raises(StatisticsError, match="gram of 'w'"):
                    found.check_model("m", {"w": Shape(shape)}, "a" * 64)


def _metadata(key: str, value: str | None) -> dict[str, str]:
    return {k: v for k, v in {**about().metadata(), key: value}.items() if v is not None}


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("format", None, "is no statistics file; `taskstore measure` writes one"),
        ("format", "pt", "is no statistics file"),
        ("version", "2", "has version 2, this taskstore reads up to 1; upgrade taskstore"),
        ("version", "zwei", "its version is 'zwei'"),
        ("version", "0", "its version is '0'"),
        ("version", None, "its version is ''"),
        ("model", "abc", "its metadata is not right"),
        ("data", None, "its metadata is not right"),
        ("examples", "0", "its metadata is not right"),
        ("examples", "many", "its metadata is not right"),
        ("transposed", "{", "its metadata is not right"),
        ("transposed", "[1]", "its metadata is not right"),
        ("shared", None, "its metadata is not right"),
        ("shared", "[" * 100_000, "its metadata is not right"),
    ],
)
def test_metadata_that_is_not_right(
    tmp_path: Path, key: str, value: str | None, message: str
) -> None:
    path = tmp_path / "s"
    save_file({"fisher/a": np.ones(3, np.float32)}, path, metadata=_metadata(key, value))
    with pytest.raises(StatisticsError, match=message) as caught:
        Statistics(path)
    assert str(path) in str(caught.value)
    assert not is_statistics(path)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"fisher/a": np.ones(3, np.float64)}, "of dtype 'F64', which is not supported"),
        ({"a": np.ones(3, np.float32)}, "'a' is no statistic of a tensor"),
        ({"grams/a": np.ones(3, np.float32)}, "'grams/a' is no statistic"),
        ({"fisher/": np.ones(3, np.float32)}, "tensor"),
        ({"gram/a": np.ones((3, 2), np.float32)}, "'gram/a' is no square matrix"),
        ({"gram/a": np.ones(9, np.float32)}, "'gram/a' is no square matrix"),
    ],
)
def test_tensors_that_are_not_right(
    tmp_path: Path, tensors: dict[str, NDArray[Any]], message: str
) -> None:
    save_file(tensors, tmp_path / "s", metadata=about().metadata())
    with pytest.raises(StatisticsError, match=message):
        Statistics(tmp_path / "s")


def test_files_that_are_not_whole(tmp_path: Path) -> None:
    whole = write(tmp_path / "s", example()).read_bytes()
    for size in (0, 7, 100, len(whole) - 1):
        (tmp_path / "cut").write_bytes(whole[:size])
        with pytest.raises(StatisticsError, match="is truncated"):
            Statistics(tmp_path / "cut")
    with pytest.raises(StatisticsError, match="cannot be read: No such file"):
        Statistics(tmp_path / "none")
    with Statistics(tmp_path / "s") as found:
        os.truncate(tmp_path / "s", len(whole) - 200)
        with pytest.raises(StatisticsError, match="became shorter"):
            found.gram("a.weight")


def test_the_digest_is_the_store_s(small: Family, packed: Path, tmp_path: Path) -> None:
    """Of a model folder as of the same model in a manifest."""
    manifest = taskstore.open(packed).manifest
    checkpoint = open_checkpoint(small.base_path)
    try:
        found = digest_of(checkpoint, threads(2))
    finally:
        checkpoint.close()
    assert found == model_digest({n: t.blake3 for n, t in manifest.tensors.items()})


def test_reading_needs_no_torch(tmp_path: Path) -> None:
    import subprocess
    import sys

    path = write(tmp_path / "s", example())
    code = (
        "import sys\nfrom taskstore.statistics.statistics_file import Statistics\n"
        f"print(Statistics({json.dumps(str(path))}).gram('a.weight').shape)\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "(4, 4)\n"), done.stderr
