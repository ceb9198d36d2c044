"""A real HAProxy in front of small servers that speak the endpoints."""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from taskstore.errors import InputError, OptionError
from taskstore.routing import haproxy
from taskstore.routing.files import drain
from taskstore.routing.haproxy import Admin, RouterOptions, configuration, names_of, tasks_text
from taskstore.routing.watch import Watch
from tests.support.ports import free_port

TASKS = [f"task-{n}" for n in range(6)]
needs_haproxy = pytest.mark.skipif(
    shutil.which("haproxy") is None and not Path("/usr/sbin/haproxy").exists(),
    reason="haproxy is not installed",
)


class Server:
    """Answers as `taskstore serve` does: /ready, /v1/models, /metrics, /v1/completions."""

    def __init__(self) -> None:
        self.running: dict[str, int] = {}
        self.tasks = list(TASKS)
        self.served: list[str] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                lines = (
                    f'taskstore_requests_running{{task="{t}"}} {n}.0\n'
                    for t, n in outer.running.items()
                )
                models = {"data": [{"id": task} for task in outer.tasks]}
                answers = {"/ready": "{}", "/v1/models": json.dumps(models)}
                self.answer(answers.get(self.path, "".join(lines)))

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.served.append(body["model"])
                self.answer(json.dumps({"by": outer.address, "model": body["model"]}))

            def answer(self, text: str) -> None:
                with suppress(ConnectionError):  # a look at /ready does not wait for the end
                    self.send_response(200)
                    self.send_header("Content-Length", str(len(text)))
                    self.end_headers()
                    self.wfile.write(text.encode())

            def log_message(self, *_: Any) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self._http.server_port}"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,))
        self._thread.start()

    def kill(self) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


class Router:
    def __init__(self, folder: Path, servers: list[Server]) -> None:
        self.servers = names_of([server.address for server in servers])
        self.map, socket_ = folder / "haproxy.map", folder / "haproxy.sock"
        self.placed = {task: f"s{n % 2 + 1}" for n, task in enumerate(TASKS)}
        self.map.write_text(tasks_text(self.placed))
        self.port = free_port()
        options = RouterOptions(bind=f"127.0.0.1:{self.port}")
        self.configuration = folder / "haproxy.cfg"
        self.configuration.write_text(configuration(self.servers, self.map, socket_, options))
        program = shutil.which("haproxy") or "/usr/sbin/haproxy"
        self.process = subprocess.Popen([program, "-db", "-q", "-f", str(self.configuration)])
        self.admin = Admin(socket_, self.map)
        until = time.monotonic() + 120
        while time.monotonic() < until:
            try:
                self.ask(TASKS[0])
                break
            except OSError:
                time.sleep(0.05)

    def ask(self, task: str) -> str:
        data = json.dumps({"model": task, "prompt": "x" * 40_000}).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/v1/completions", data)
        with urllib.request.urlopen(request, timeout=60) as answer:
            found = json.loads(answer.read())
        assert found["model"] == task
        return str(found["by"])

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(60)


@pytest.fixture
def servers() -> Iterator[list[Server]]:
    made = [Server(), Server()]
    yield made
    for server in made:
        server.kill()


@pytest.fixture
def router(servers: list[Server], tmp_path: Path) -> Iterator[Router]:
    made = Router(tmp_path, servers)
    yield made
    made.close()


@needs_haproxy
def test_a_task_goes_to_its_server(router: Router) -> None:
    for task, name in router.placed.items():
        assert {router.ask(task) for _ in range(3)} == {router.servers[name]}
    assert router.ask("not in the map") == router.ask("not in the map")
    assert router.admin.placed() == router.placed


@needs_haproxy
def test_no_request_fails_when_a_server_is_killed(router: Router, servers: list[Server]) -> None:
    dead, left = servers
    with ThreadPoolExecutor(4) as pool:
        answers = [pool.submit(router.ask, TASKS[n % 6]) for n in range(60)]
        dead.kill()
        answers += [pool.submit(router.ask, TASKS[n % 6]) for n in range(60)]
        assert len([answer.result() for answer in answers]) == 120
    assert router.ask(TASKS[0]) == left.address
    servers[0] = Server()  # for the fixture to kill


@needs_haproxy
def test_a_task_moves_at_run_time(router: Router, servers: list[Server]) -> None:
    assert router.admin.move({**router.placed, TASKS[0]: "s2"}) == [TASKS[0]]
    assert router.ask(TASKS[0]) == servers[1].address
    drain(router.servers, router.configuration, servers[1].address)
    assert router.admin.running("s2") == 0
    until = time.monotonic() + 120
    while router.ask(TASKS[1]) != servers[0].address and time.monotonic() < until:
        time.sleep(0.05)
    assert router.ask(TASKS[1]) == servers[0].address
    drain(router.servers, router.configuration, servers[1].address, back=True)
    assert router.ask(TASKS[1]) == servers[1].address


@needs_haproxy
def test_watching_follows_tasks_and_load(router: Router, servers: list[Server]) -> None:
    watch = Watch(router.servers, router.admin)
    assert watch.once() == {}
    servers[0].running = {TASKS[0]: 9, TASKS[2]: 9, TASKS[4]: 9}
    moved: dict[str, str] = {}
    for _ in range(4):
        moved |= watch.once()
    assert moved and set(moved.values()) == {servers[1].address}
    for task in moved:
        assert router.ask(task) == servers[1].address
    for server in servers:
        server.tasks = [*TASKS[1:], "new"]
    assert "new" in watch.once()
    assert TASKS[0] not in router.admin.placed()


def test_what_cannot_be_written_is_refused(tmp_path: Path) -> None:
    for wrong in (["a"], ["a:0"], ["a:99999"], ["a:1", "a:1"], ["a b:1"], ["a:1\nb:2"], []):
        with pytest.raises(OptionError):
            names_of(wrong)
    for task in ("two words", "a\nb s1", 'quote"', "a;help", "a\0b"):
        with pytest.raises(InputError, match="rename it"):
            tasks_text({task: "s1"})
    with pytest.raises(OptionError, match="bind"):
        RouterOptions(bind="nonsense\n")
    with pytest.raises(InputError, match="no HAProxy answers"):
        Admin(tmp_path / "none", tmp_path / "map").placed()
    with pytest.raises(InputError, match="no such path"):
        haproxy.configuration({"s1": "a:1"}, tmp_path / "a b", tmp_path / "x", RouterOptions())
