"""What an operator does over HTTP, and what a server must bear."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.serving.support.fronted import KEY, NUMBERS, TASKS, Server, chat, said

httpx = pytest.importorskip("httpx", reason="comes with vLLM, which is not installed")
openai = pytest.importorskip("openai", reason="comes with vLLM, which is not installed")

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]


def test_unknown_names_are_answered_with_what_there_is(server: Server) -> None:
    for path in ("/v1/completions", "/v1/chat/completions", "/v1/responses", "/tokenize"):
        found = server.call("POST", path, {"model": "germn", "prompt": "x"})
        assert found.status_code == 404
        error = found.json()["error"]
        assert error["message"].startswith("The model `germn` does not exist; there are german, ")
        assert (error["type"], error["param"], error["code"]) == ("NotFoundError", "model", 404)


def test_malformed_and_oversized_bodies(server: Server) -> None:
    def post(body: Any) -> Any:
        headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
        url = f"{server.url}/v1/completions"
        return httpx.post(url, content=body, headers=headers, timeout=120)

    nested = b'{"model": "german", "prompt": ' + b"[" * 100_000
    for body in (b"", b"{", b'"german"', b"[1]", b'{"model": 5, "prompt": "x"}', b"\xff{}", nested):
        found = post(body)
        assert found.status_code in (400, 422), body[:40]
        assert found.json()["error"]["message"], body[:40]
    block = b" " * (1 << 20)
    for large in (block * 65, iter([block] * 65)):  # with a length, and in chunks
        found = post(large)
        assert (found.status_code, found.json()["error"]["code"]) == (413, 413)


def test_no_route_answers_without_the_key(server: Server) -> None:
    paths = server.call("GET", "/openapi.json").json()["paths"]
    tried = []
    for path, methods in paths.items():
        guarded = path.startswith(("/v1", "/v2", "/inference"))
        for method in methods if guarded else set(methods) - {"get", "head"}:
            if path == "/ping":
                continue
            for key in (None, "another key"):
                url = path.replace("{", "").replace("}", "").replace(":path", "")
                assert server.call(method.upper(), url, {}, key).status_code == 401, path
            tried.append(path)
    ours = {f"/v1/taskstore{path}" for path in ("", "/verify", "/tasks/{name}")}
    assert ours | {"/v1/models/{name}", "/tokenize", "/invocations"} <= set(tried)
    assert server.call("GET", "/ready", key=None).json() == {"ready": True, "tasks": 4}


def test_tasks_are_taken_out_and_put_back(
    server: Server, wanted: dict[str, dict[str, str]]
) -> None:
    def resident() -> Any:
        return sum(server.call("GET", "/v1/taskstore").json()["memory"].values())

    def adapter(verb: str, name: str) -> Any:
        body = {"lora_name": name, "lora_path": "any"}
        return server.call("POST", f"/v1/{verb}_lora_adapter", body)

    before = resident()
    assert server.call("DELETE", "/v1/taskstore/tasks/noted").json()["served"] is False
    assert resident() < before
    assert adapter("unload", "roman").status_code == 200
    for task in ("noted", "roman"):
        with pytest.raises(openai.NotFoundError):
            chat(server, task, "93")
    assert sorted(m.id for m in server.client.models.list()) == ["base", "english", "german"]
    assert server.call("POST", "/v1/taskstore/tasks/noted").status_code == 201
    assert adapter("load", "roman").text == "Success: LoRA adapter 'roman' added successfully."
    assert resident() == before
    for task in ("noted", "roman"):
        assert said(chat(server, task, "93")) == wanted[task]["93"]
    answers = [
        server.call("POST", "/v1/taskstore/tasks/noted"),
        server.call("POST", "/v1/taskstore/tasks/nothing"),
        server.call("POST", "/v1/taskstore/tasks/bent"),
        server.call("DELETE", "/v1/taskstore/tasks/nothing"),
        server.call("DELETE", "/v1/taskstore/tasks/noted?wait=long"),
        adapter("load", "roman"),
        adapter("load", "base"),
        adapter("load", "nothing"),
        adapter("unload", "nothing"),
        server.call("POST", "/v1/load_lora_adapter", ["roman"]),
    ]
    assert [a.status_code for a in answers] == [409, 404, 400, 404, 400, 400, 400, 404, 404, 400]
    assert all(answer.json()["error"]["message"] for answer in answers)
    assert "says rope_parameters.rope_theta=5000.0" in answers[2].json()["error"]["message"]


def ends(chunks: Any) -> list[str]:
    return [why for chunk in chunks for choice in chunk.choices if (why := choice.finish_reason)]


def test_a_task_with_running_requests_is_not_removed(server: Server) -> None:
    options = {"max_tokens": 110, "temperature": 1, "extra_body": {"ignore_eos": True}}
    before = taken_in(server, "english")
    # more than a connection holds: it runs until somebody reads it, or closes it
    endless = chat(server, "english", "417", stream=True, n=1000, **options)
    while taken_in(server, "english") < before + 1:
        time.sleep(0.02)
    found = server.call("DELETE", "/v1/taskstore/tasks/english?wait=0")
    assert found.status_code == 409
    assert "still run after 0 s; it is served on" in found.json()["error"]["message"]
    with ThreadPoolExecutor(1) as clients:
        chunks = iter(chat(server, "english", "417", stream=True, n=32, **options))
        endless.close()
        removal = clients.submit(server.call, "DELETE", "/v1/taskstore/tasks/english?wait=120")
        assert ends(chunks) == ["length"] * 32  # it was waited for
        assert removal.result().status_code == 200
    assert server.call("POST", "/v1/taskstore/tasks/english").status_code == 201
    assert said(chat(server, "english", "417")) == "four hundred seventeen"


def taken_in(server: Server, task: str) -> float:
    """Requests of a task that have begun, as /metrics counts them: in flight, or ended."""
    lines = server.http.get("/metrics").text.splitlines()
    mine = [line for line in lines if f'task="{task}"' in line]
    names = ("taskstore_requests_total{", "taskstore_requests_running{")
    return sum(float(line.split()[-1]) for line in mine if line.startswith(names))


def test_verify_proves_what_is_live(server: Server) -> None:
    found = server.call("POST", "/v1/taskstore/verify", {"task": None}).json()["verified"]
    assert sorted(one["task"] or "base" for one in found) == ["base", *TASKS]
    (one,) = server.call("POST", "/v1/taskstore/verify", {"task": "roman"}).json()["verified"]
    assert one["task"] == "roman"
    assert one["tensors"] > 10 and one["bytes"] > 1 << 20
    for task, status in (("nothing", 404), (5, 400)):
        found = server.call("POST", "/v1/taskstore/verify", {"task": task})
        assert found.status_code == status


Wanted = dict[str, dict[str, str]]


async def flood(server: Server, wanted: Wanted, names: list[str], count: int) -> list[bool]:
    """Requests over as many connections, to tasks in turn: which were answered right."""

    async def one(client: Any, number: int) -> bool:
        task, text = names[number % len(names)], NUMBERS[number % len(NUMBERS)]
        answer = await client.chat.completions.create(
            model=task,
            messages=[{"role": "user", "content": text}],
            temperature=0,
            max_tokens=24,
        )
        return said(answer) == wanted[task][text] and answer.model == task

    http = httpx.AsyncClient(limits=httpx.Limits(max_connections=count), timeout=240)
    options: Any = {"api_key": KEY, "base_url": f"{server.url}/v1", "max_retries": 0}
    async with openai.AsyncOpenAI(**options, http_client=http) as client:
        return await asyncio.gather(*(one(client, number) for number in range(count)))


def test_hundreds_of_connections_at_once(server: Server, wanted: Wanted) -> None:
    assert asyncio.run(flood(server, wanted, ["base", *TASKS], 300)) == [True] * 300


def test_tasks_come_and_go_under_load(server: Server, wanted: Wanted) -> None:
    def change() -> list[int]:
        route = "/v1/taskstore/tasks/noted"
        return [server.call(verb, route).status_code for verb in ("DELETE", "POST") * 3]

    async def both() -> tuple[list[bool], list[int]]:
        others = flood(server, wanted, ["base", "german", "roman"], 150)
        return await asyncio.gather(others, asyncio.to_thread(change))

    answers, changes = asyncio.run(both())
    assert (answers, changes) == ([True] * 150, [200, 201] * 3)
    assert said(chat(server, "noted", "93")) == wanted["noted"]["93"]
