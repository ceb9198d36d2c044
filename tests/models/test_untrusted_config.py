"""What a config of strangers asks for is refused, or not done: code, the network, a hang."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest
import transformers as tf
from packaging.version import Version

from taskstore.errors import InputError
from taskstore.models import live
from taskstore.models.untrusted_config import offline
from tests.support.broken import one_line

LLAMA = json.loads(tf.LlamaConfig(hidden_size=64, num_hidden_layers=1).to_json_string())
LLAMA["architectures"] = ["LlamaForCausalLM"]
KERNEL = "kernels-community/flash-attn2"


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> NoReturn:
        pytest.fail("a connection was tried")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def config_in(folder: Path, **changes: object) -> Path:
    (folder / "config.json").write_text(json.dumps({**LLAMA, **changes}))
    return folder


HOSTILE: dict[str, tuple[dict[str, Any], str]] = {
    "kernel": ({"attn_implementation": KERNEL}, "code from elsewhere"),
    "kernel, inner name": ({"_attn_implementation_internal": KERNEL}, "code from elsewhere"),
    "kernel of a part": ({"text_config": {"_attn_implementation": KERNEL}}, "code from elsewhere"),
    "kernels by part": ({"attn_implementation": {"": "sdpa", "x": KERNEL}}, "code from elsewhere"),
    "kernel of experts": ({"experts_implementation": "me/experts"}, "code from elsewhere"),
    "an attention of numbers": ({"attn_implementation": [1]}, "code from elsewhere"),
    "AutoConfig": ({"architectures": ["AutoConfig"]}, "is a AutoConfig, which"),
    "AutoModel": ({"architectures": ["AutoModelForCausalLM"]}, "is a AutoModelForCausalLM, which"),
    "pipeline": ({"architectures": ["pipeline"]}, "is a pipeline, which"),
    "logging": ({"architectures": ["logging"]}, "is a logging, which"),
    "no names": ({"architectures": [1]}, "architectures that are no names|cannot read"),
    "a name": ({"architectures": "LlamaForCausalLM"}, "no names|cannot read|which transformers"),
    "a line of its own": ({"architectures": ["a\nb"]}, r"is a a\?b, which"),
    "remote code": (
        {"model_type": "x", "auto_map": {"AutoConfig": "me/repo--code.Config"}},
        r"code.py of me/repo on the hub.*trust_remote_code=True",
    ),
    "a type of model": ({"model_type": ["llama"]}, "cannot read"),
    "text for a size": ({"hidden_size": "large"}, "cannot read"),
    "no heads": ({"num_attention_heads": 0, "head_dim": None}, "cannot read"),
    "layers": ({"num_hidden_layers": 10**9}, "num_hidden_layers.*more than"),
    "layers of a part": ({"vision_config": {"depths": [1, 10**9]}}, "depths.*more than"),
    "dtype": ({"dtype": "os.system"}, "cannot read"),
}


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("changes", "message"), HOSTILE.values(), ids=HOSTILE)
def test_what_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    if "hidden_size" in changes and Version(tf.__version__) < Version("5.5"):
        pytest.skip("transformers before 5.5 checks no types of a config")
    with pytest.raises(InputError, match=message) as caught:
        live.model_class(config_in(tmp_path, **changes), "task 'one'")
    one_line(caught.value, "one")


BROKEN: dict[str, Callable[[Path], object]] = {
    "no JSON": lambda path: path.write_text("{"),
    "a list": lambda path: path.write_text("[]"),
    "deep": lambda path: path.write_text('{"a":' * 100_000),
    "pipe": lambda path: os.mkfifo(path),
    "device": lambda path: path.symlink_to("/dev/zero"),
    "large": lambda path: path.write_text(" " * (65 << 20)),
}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("make", BROKEN.values(), ids=BROKEN)
def test_what_is_no_config(tmp_path: Path, make: Callable[[Path], object]) -> None:
    make(tmp_path / "config.json")
    with pytest.raises(InputError, match=r"config\.json") as caught:
        live.model_class(tmp_path, "task 'one'")
    one_line(caught.value)


def test_a_pipe_beside_the_config(tmp_path: Path) -> None:
    os.mkfifo(config_in(tmp_path) / "tokenizer.json")
    with pytest.raises(InputError, match=r"tokenizer\.json: it is not a regular file"):
        live.model_class(tmp_path, "task 'one'")


def test_offline_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with offline():
        with offline():
            assert constants.HF_HUB_OFFLINE
        assert constants.HF_HUB_OFFLINE
    assert not constants.HF_HUB_OFFLINE


def test_code_is_run_where_it_is_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "hf"))
    folder = tmp_path / "model"
    folder.mkdir()
    code = "from transformers import {0} as Old\nclass {1}(Old):\n    pass\n"
    (folder / "ours.py").write_text(
        code.format("LlamaConfig", "OurConfig") + code.format("LlamaForCausalLM", "OurModel")
    )
    names = {"AutoConfig": "ours.OurConfig", "AutoModelForCausalLM": "ours.OurModel"}
    config_in(folder, auto_map=names, architectures=["OurModel"], model_type="ours")
    with pytest.raises(InputError, match=r"OurModel, .* of its own \(ours.py\)"):
        live.model_class(folder, "task 'one'")
    cls, config = live.model_class(folder, "task 'one'", trust_remote_code=True)
    assert (cls.__name__, type(config).__name__) == ("OurModel", "OurConfig")
