"""What every kind of weight file must do. A new kind is one entry of WRITERS."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor

from taskstore.errors import CheckpointError
from taskstore.format.dtypes import ITEMSIZE
from taskstore.kernels.torch_dtypes import TORCH
from taskstore.models.checkpoint import Reader
from taskstore.models.readers import READERS, open_files, weights_in
from tests.support.families import State, bits

WRITERS: Mapping[str, Callable[[State, Path], object]] = {
    ".safetensors": save_file,
    ".bin": torch.save,
    ".pt": torch.save,
    ".pth": torch.save,
    ".ckpt": torch.save,
}
SHAPES: Mapping[str, tuple[int, ...]] = {
    "scalar": (),
    "one": (1,),
    "none": (0, 5),
    "vector": (1001,),
    "layers.0.matrix": (37, 41),
    "layers.0.filter": (4, 3, 5, 5),
}


@pytest.fixture(params=READERS)
def suffix(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


def random_bits(shape: tuple[int, ...], dtype: str, seed: int = 0) -> Tensor:
    """Any bit patterns: NaNs, infinities and subnormals among the floats."""
    rng = np.random.default_rng(seed)
    size = math.prod(shape) * ITEMSIZE[dtype]
    raw = rng.integers(0, 2 if dtype == "BOOL" else 256, size, np.uint8)
    if not size:
        return torch.empty(shape, dtype=TORCH[dtype])
    return torch.tensor(raw).view(TORCH[dtype]).reshape(shape)


@cache
def state_of(dtype: str) -> State:
    return {name: random_bits(shape, dtype, i) for i, (name, shape) in enumerate(SHAPES.items())}


def words(tensor: Tensor, dtype: str) -> NDArray[Any]:
    """The elements in C order, as readers give them."""
    return bits(tensor).numpy().view(f"<u{ITEMSIZE[dtype]}")


def saved(suffix: str, folder: Path, state: State, stem: str = "m") -> Path:
    path = folder / f"{stem}{suffix}"
    WRITERS[suffix](state, path)
    return path


def opened(suffix: str, folder: Path, dtype: str = "BF16") -> Reader:
    return open_files([saved(suffix, folder, state_of(dtype))])


def refused(path: Path) -> str:
    """The message with which a file is refused, whether at once or when it is read."""
    with pytest.raises(CheckpointError) as caught:
        reader = open_files([path])
        for name, info in reader.tensors.items():
            reader.read(name, 0, info.numel)
    message = str(caught.value)
    assert str(path) in message and "\n" not in message
    return message


def test_every_kind_can_be_written() -> None:
    assert set(WRITERS) == set(READERS)


@pytest.mark.parametrize("dtype", ITEMSIZE)
def test_every_dtype_comes_bit_for_bit(suffix: str, dtype: str, tmp_path: Path) -> None:
    reader, state = opened(suffix, tmp_path, dtype), state_of(dtype)
    assert set(reader.tensors) == set(state)
    for name, tensor in state.items():
        info = reader.tensors[name]
        assert (info.dtype, info.shape) == (dtype, tuple(tensor.shape))
        found = reader.read(name, 0, info.numel)
        assert found.dtype == np.dtype(f"<u{ITEMSIZE[dtype]}") and found.shape == (info.numel,)
        assert np.array_equal(found, words(tensor, dtype))
    reader.close()


@given(data=st.data())
def test_any_range(suffix: str, tmp_path: Path, data: st.DataObject) -> None:
    reader = opened(suffix, tmp_path)
    name = data.draw(st.sampled_from(sorted(SHAPES)))
    expected = words(state_of("BF16")[name], "BF16")
    start = data.draw(st.integers(0, expected.size))
    stop = data.draw(st.integers(start, expected.size))
    assert np.array_equal(reader.read(name, start, stop), expected[start:stop])
    out = np.full(stop - start + 2, 0xABCD, np.uint16)  # what is beside the target stays
    reader.read_into(name, start, out[1:-1])
    assert np.array_equal(out[1:-1], expected[start:stop])
    assert out[0] == out[-1] == 0xABCD
    reader.close()


def test_reads_of_many_threads(suffix: str, tmp_path: Path) -> None:
    reader = opened(suffix, tmp_path)
    expected = {name: words(tensor, "BF16") for name, tensor in state_of("BF16").items()}

    def same(i: int) -> bool:
        name = ("vector", "layers.0.matrix", "layers.0.filter")[i % 3]
        start = i * 7 % 200
        return np.array_equal(reader.read(name, start, 290), expected[name][start:290])

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(same, range(500)))
    reader.close()


def test_several_files_are_one_model(suffix: str, tmp_path: Path) -> None:
    state = state_of("F32")
    parts = [{n: state[n] for n in list(state)[i::2]} for i in range(2)]
    files = [saved(suffix, tmp_path, part, f"part{i}") for i, part in enumerate(parts)]
    reader = open_files(files)
    assert set(reader.tensors) == set(state)
    for name, tensor in state.items():
        found = reader.read(name, 0, tensor.numel())
        assert np.array_equal(found, words(tensor, "F32"))
    reader.close()


def test_a_name_in_two_files_is_refused(suffix: str, tmp_path: Path) -> None:
    values = {"one": torch.ones(2), "two": torch.ones(2), "three": torch.tensor([1.0, 2.0])}
    files = [saved(suffix, tmp_path, {"w": value}, stem) for stem, value in values.items()]
    both = open_files(files[:2])  # the same weights
    assert both.read("w", 0, 2).size == 2
    both.close()
    files = files[1:]
    with pytest.raises(CheckpointError, match="tensor 'w' stands in") as caught:
        open_files(files)
    assert str(files[1]) in str(caught.value)


def test_closing(suffix: str, tmp_path: Path) -> None:
    """Nothing of the file stays open or mapped, and reading is an error."""
    reader = opened(suffix, tmp_path)
    path = str(tmp_path / f"m{suffix}")
    reader.read("vector", 0, 10)
    reader.close()
    reader.close()
    links = [link for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
    assert path not in {str(link.readlink()) for link in links if link.exists()}
    assert path not in Path("/proc/self/maps").read_text()
    with pytest.raises((CheckpointError, KeyError)):
        reader.read("vector", 0, 10)
    with pytest.raises((CheckpointError, KeyError)):
        reader.read_into("vector", 0, np.empty(10, np.uint16))


def test_a_file_that_is_refused_is_not_kept_open(suffix: str, tmp_path: Path) -> None:
    good = saved(suffix, tmp_path, state_of("F32"), "good")
    bad = tmp_path / f"bad{suffix}"
    bad.write_bytes(b"no weights")
    with pytest.raises(CheckpointError):
        open_files([good, bad])
    links = [link for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
    held = {str(link.readlink()) for link in links if link.exists()}
    assert not held & {str(good), str(bad)}


@pytest.mark.parametrize("share", [0, 0.001, 0.01, 0.3, 0.6, 0.9, 0.99, 0.9999])
def test_a_truncated_file_is_refused(suffix: str, tmp_path: Path, share: float) -> None:
    path = saved(suffix, tmp_path, state_of("F32"))
    raw = path.read_bytes()
    path.write_bytes(raw[: int(len(raw) * share)])
    refused(path)


@given(st.binary(max_size=400))
def test_a_file_of_noise_is_refused(suffix: str, tmp_path: Path, noise: bytes) -> None:
    path = tmp_path / f"m{suffix}"
    path.write_bytes(noise)
    refused(path)


@given(at=st.integers(0, 1 << 16), junk=st.binary(min_size=1, max_size=20))
def test_a_damaged_file_is_read_or_refused(
    suffix: str, tmp_path: Path, at: int, junk: bytes
) -> None:
    """Weights may differ then, but no other exception comes and no size is wrong."""
    path = saved(suffix, tmp_path, {"w": torch.ones(50), "v": torch.zeros(3, 4)})
    raw = path.read_bytes()
    at %= len(raw)
    path.write_bytes(raw[:at] + junk + raw[at + len(junk) :])
    try:
        reader = open_files([path])
    except CheckpointError:
        refused(path)
        return
    for name, info in reader.tensors.items():
        assert reader.read(name, 0, info.numel).size == info.numel
    reader.close()


def test_what_is_no_file_is_refused(suffix: str, tmp_path: Path) -> None:
    refused(tmp_path / f"missing{suffix}")
    (tmp_path / f"folder{suffix}").mkdir()
    refused(tmp_path / f"folder{suffix}")


class Evil:
    """A pickle that creates a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


def evil_zip(evil: Evil, path: Path) -> None:
    torch.save({"w": torch.ones(3), "evil": evil}, path)


def evil_old(evil: Evil, path: Path) -> None:
    torch.save({"evil": evil}, path, _use_new_zipfile_serialization=False)


def evil_plain(evil: Evil, path: Path) -> None:
    path.write_bytes(pickle.dumps({"evil": evil}))


@pytest.mark.parametrize("write", [evil_zip, evil_old, evil_plain])
def test_code_is_never_unpickled(
    suffix: str, tmp_path: Path, write: Callable[[Evil, Path], None]
) -> None:
    """Whatever the suffix says; once by hand, to see that the trap works."""
    trap, path = tmp_path / "sprung", tmp_path / f"m{suffix}"
    write(Evil(trap), path)
    refused(path)
    assert not trap.exists()
    if write is evil_plain:
        pickle.loads(path.read_bytes())
        assert trap.exists()


def test_a_folder_of_such_files_is_found(suffix: str, tmp_path: Path) -> None:
    """Under each of its names; a kind without names is read only when it is named."""
    kind = READERS[suffix]
    if not kind.stems:
        saved(suffix, tmp_path, {"w": torch.ones(2)}, "model")
        assert weights_in(tmp_path) == ([], None, {})
    for stem in kind.stems:
        (tmp_path / stem).mkdir()
        path = saved(suffix, tmp_path / stem, {"w": torch.ones(2)}, stem)
        saved(suffix, tmp_path / stem, {"w": torch.ones(2)}, "training_state")
        assert weights_in(tmp_path / stem) == ([path], None, {})


def test_other_kinds_are_refused(tmp_path: Path) -> None:
    (tmp_path / "model.weights").write_bytes(b"GGUF")
    assert "neither a safetensors file nor" in refused(tmp_path / "model.weights")
