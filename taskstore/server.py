"""`taskstore.serve`: the command `taskstore serve` as a process of its own, with its address.

The engine loads models and forks; it wants a process for itself, whatever the caller is: a script,
a notebook, a test. So nothing of the plug-in or the engine is imported here.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from typing import IO, Any, Literal, Self
from weakref import finalize

from taskstore.errors import ServingFailed
from taskstore.locations.base import PathLike
from taskstore.public import public
from taskstore.store.store import Store, opened

COMMAND = (sys.executable, "-m", "taskstore_cli", "serve")
GRACE = 30.0  # seconds that a server has to end by itself
LAST_WORDS = 10.0  # seconds in which the log of one that ended is read to its end
KEPT = 30  # lines of its log, for an error


@public
def serve(
    store: Store | PathLike,
    tasks: Sequence[str] | None = None,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    api_key: str | None = None,
    default_task: str | None = None,
    tier: Literal["auto", "mask", "rest"] = "auto",
    masks_on: Literal["host", "device"] = "host",
    skip_unservable: bool = False,
    engine: Sequence[str] = (),
    timeout: float = 900.0,
) -> Server:
    """Serve tasks of a store (None: all) with vLLM, and return when it answers requests.

    One process, one set of weights and one endpoint like OpenAI's serve them all; a request names a
    task as its model. `port` 0 takes one that is free. `engine` are options of vLLM, such as
    ["--max-model-len", "4096"]. Its log goes to stderr. `timeout` is in seconds. The server ends
    with `stop`, at the end of a `with` block, or with this process. Raises ServingFailed, which
    says what the server said, where it does not start.

        with taskstore.serve("numerals", ["english", "roman"]) as server:
            client = openai.OpenAI(base_url=server.url, api_key="none")
            client.chat.completions.create(model="roman", messages=[...])

    >>> taskstore.serve("numerals", ["klingon"])
    Traceback (most recent call last):
    ...
    taskstore.errors.ServingFailed: ...no task 'klingon'...
    """
    found = opened(store)
    options: list[Any] = ["--host", host, "--port", port, "--tier", tier, "--masks-on", masks_on]
    options += ["--tasks", ",".join(tasks)] if tasks is not None else []
    options += ["--default-task", default_task] if default_task is not None else []
    options += ["--skip-unservable"] if skip_unservable else []
    options += ["--base-from", found.base_path] if found.base_path is not None else []
    words = [*COMMAND, str(found.path), "--json", *options, "--", *engine]
    key = {} if api_key is None else {"TASKSTORE_API_KEY": api_key}
    process = subprocess.Popen(
        [*map(str, words)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        env={**os.environ, **key},
    )
    server = Server(process)
    try:
        server._wait(timeout)
    except BaseException:
        server.stop()
        raise
    return server


class Server:
    """A server that runs; a context manager that stops it.

    url     of its API, which ends in /v1
    pid     of its process
    tasks   name of a task -> the tier that is served
    facts   all that it said when it was ready, as `taskstore serve --json` says it
    """

    url: str
    tasks: Mapping[str, str]
    facts: Mapping[str, Any]

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.pid, self._process = process.pid, process
        self._log: deque[str] = deque(maxlen=KEPT)
        self._ready: dict[str, Any] | None = None
        self._said = threading.Event()
        self._end = finalize(self, _stopped, process)
        assert process.stdout is not None and process.stderr is not None
        threads = [
            threading.Thread(target=read, args=[stream], daemon=True)
            for read, stream in ((self._answer, process.stdout), (self._follow, process.stderr))
        ]
        for thread in threads:
            thread.start()
        self._following = threads[1]

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def stop(self) -> None:
        """End the server; requests that run are cut off. More calls do nothing."""
        self._end()

    def _answer(self, stdout: IO[str]) -> None:
        """Take the line that says that it is ready."""
        with stdout:
            for line in stdout:
                try:
                    found = json.loads(line)
                except ValueError:
                    continue
                if isinstance(found, dict) and found.get("ready"):
                    self._ready = found
                    self._said.set()
        self._said.set()

    def _follow(self, stderr: IO[str]) -> None:
        """Show the log as it comes, and keep its end."""
        with stderr:
            for line in stderr:
                self._log.append(line.rstrip())
                sys.stderr.write(line)

    def _wait(self, timeout: float) -> None:
        late = not self._said.wait(timeout)
        if self._ready is None:
            status = None if late else self._process.wait()
            self._following.join(0.1 if late else LAST_WORDS)
            why = f"was not ready in {timeout:g} s" if late else f"ended with status {status}"
            errors = [line for line in self._log if line.startswith("error: ")]
            said = errors or [line for line in self._log if line.strip()]
            raise ServingFailed(f"the server {why}: {said[-1] if said else 'it said nothing'}")
        self.url, self.tasks = str(self._ready["url"]), dict(self._ready["tasks"])
        self.facts = self._ready

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def __repr__(self) -> str:
        state = f"at {self.url}" if self.running and self._ready else "stopped"
        return f"<taskstore.Server {state}, process {self.pid}>"


def _stopped(process: subprocess.Popen[str]) -> None:
    """End a process as Ctrl-C does, or by force where it takes too long."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(GRACE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
