"""A family whose fine-tunes differ in what stands beside their weights, and a server of it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import taskstore
from tests.serving.support.engines import FAMILY
from tests.support.ports import free_port

if TYPE_CHECKING:
    import httpx
    import openai

KEY = "a key"
NOTE = 511  # in place of the last token of the family's vocabulary
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<user>{{ m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}<answer>{% endif %}"
)
TASKS = ["english", "german", "noted", "roman"]
NUMBERS = ["417", "93", "2068"]
DEFAULTS = {"do_sample": True, "temperature": 0.25, "top_p": 0.75, "max_new_tokens": 40}


def make_family(root: Path) -> Path:
    """german, roman, english as they are; `noted` is german with other files; all in root/store.

    `noted` has a token of its own for its beginnings, a template that writes it, defaults for
    sampling, and ends where german goes on: at "zehn". `bent` has weights like english, but a
    config that computes something else with them.
    """
    for name in ("base", "german", "roman", "english"):
        shutil.copytree(FAMILY / name, root / name)
    noted = root / "noted"
    shutil.copytree(FAMILY / "german", noted)
    tokenizer = json.loads((noted / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    gone = next(token for token, number in vocabulary.items() if number == NOTE)
    del vocabulary[gone]
    merges = tokenizer["model"]["merges"]
    tokenizer["model"]["merges"] = [merge for merge in merges if "".join(merge) != gone]
    special = {**tokenizer["added_tokens"][0], "id": NOTE, "content": "<note>"}
    tokenizer["added_tokens"].append(special)
    _write(noted / "tokenizer.json", tokenizer)
    config = json.loads((noted / "tokenizer_config.json").read_text())
    config["additional_special_tokens"].append("<note>")
    _write(noted / "tokenizer_config.json", {**config, "bos_token": "<note>"})
    _write(noted / "generation_config.json", {**DEFAULTS, "eos_token_id": [3, vocabulary["zehn"]]})
    (noted / "chat_template.jinja").write_text(TEMPLATE)
    shutil.copytree(FAMILY / "english", root / "bent")
    computes = json.loads((root / "bent" / "config.json").read_text())
    computes["rope_parameters"]["rope_theta"] = 5000.0
    _write(root / "bent" / "config.json", computes)
    tasks = {name: root / name for name in (*TASKS, "bent")}
    taskstore.pack(root / "base", tasks, root / "store", taskstore.PackOptions(tiers="mask"))
    return root


@dataclass
class Server:
    root: Path  # of its store, and its log
    url: str
    client: openai.OpenAI
    http: httpx.Client

    def call(self, method: str, path: str, body: Any = None, key: str | None = KEY) -> Any:
        """One plain request; `key` None sends none."""
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        return self.http.request(method, path, json=body, headers=headers)


@contextmanager
def serving(root: Path, *given: str, vllm: Sequence[str] = ()) -> Iterator[Server]:
    """`taskstore serve` of the store in `root`; it is gone when the block ends."""
    import httpx
    import openai

    port = free_port()
    command = [
        *(sys.executable, "-m", "taskstore_cli", "serve", str(root / "store"), "--port", str(port)),
        *("--served-model-name", "base", *given, "--"),
        *("--dtype", "float32", "--enforce-eager", "--max-model-len", "128"),
        *("--max-num-seqs", "16", "--kv-cache-memory-bytes", str(64 << 20), "--block-size", "32"),
        *("--enable-auto-tool-choice", "--tool-call-parser", "hermes"),
        "--structured-outputs-config",
        '{"backend": "xgrammar", "disable_any_whitespace": true}',
        *vllm,
    ]
    environment = {
        **os.environ,
        "TASKSTORE_API_KEY": KEY,
        "VLLM_CPU_CI_ENV": "1",
        "VLLM_ENABLE_RESPONSES_API_STORE": "1",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "1",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }
    with (root / "log").open("w") as log:
        process = subprocess.Popen(
            command, env=environment, stdout=log, stderr=log, start_new_session=True
        )
    try:
        url = f"http://127.0.0.1:{port}"
        _wait_until_ready(process, url, root / "log")
        # a connection that is kept may be closed by the server just when it is used again
        limits = httpx.Limits(max_keepalive_connections=0)
        options: Any = {"api_key": KEY, "base_url": f"{url}/v1", "max_retries": 0, "timeout": 120}
        with (
            httpx.Client(base_url=url, timeout=120, limits=limits) as http,
            openai.OpenAI(**{**options, "http_client": http}) as client,
        ):
            yield Server(root, url, client, http)
    finally:
        _end(process)


def chat(server: Server, task: str, text: str, **options: Any) -> Any:
    """One greedy answer."""
    return server.client.chat.completions.create(
        model=task,
        messages=[{"role": "user", "content": text}],
        **{"temperature": 0, "max_tokens": 24, **options},
    )


def said(answer: Any) -> str:
    text: str = answer.choices[0].message.content
    return text


def answers(folder: Path) -> dict[str, str]:
    """What transformers says with a folder to each of NUMBERS: its template, weights and ends."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype="float32")
    ends, found = np.atleast_1d(model.generation_config.eos_token_id), dict[str, str]()
    for number in NUMBERS:
        asked = tokenizer.apply_chat_template(
            [{"role": "user", "content": number}],
            add_generation_prompt=True,
            return_tensors="pt",
            return_dict=True,
        )
        ids = model.generate(**asked, do_sample=False, max_new_tokens=24)[0]
        new = ids[asked["input_ids"].shape[1] :].tolist()
        if new[-1] in ends:
            new.pop()
        found[number] = tokenizer.decode(new, skip_special_tokens=True)
    return found


def _wait_until_ready(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    import httpx

    until = time.monotonic() + 300
    while time.monotonic() < until and process.poll() is None:
        with suppress(httpx.TransportError):
            if httpx.get(f"{url}/ready", timeout=5).status_code == 200:
                return
        time.sleep(0.25)
    raise AssertionError(f"the server did not start:\n{log.read_text()[-8000:]}")


def _end(process: subprocess.Popen[bytes]) -> None:
    """As an operator would; what is left of its own group afterwards is killed."""
    process.send_signal(signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(60)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(60)


def _write(path: Path, document: Any) -> None:
    path.write_text(json.dumps(document))
