"""Every task as a model of one real server, over HTTP, with OpenAI's own client."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

import taskstore
from tests.serving.fronted import DEFAULTS, KEY, NOTE, Server

httpx = pytest.importorskip("httpx", reason="comes with vLLM, which is not installed")
openai = pytest.importorskip("openai", reason="comes with vLLM, which is not installed")

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]
TASKS = ["english", "german", "noted", "roman"]
NUMBERS = ["417", "93", "2068"]
SCHEMA = {
    "type": "object",
    "properties": {"a": {"enum": ["x", "yy"]}},
    "required": ["a"],
    "additionalProperties": False,
}
FORMAT = {"type": "json_schema", "json_schema": {"name": "thing", "schema": SCHEMA}}
TOOL = {"type": "function", "function": {"name": "pick", "parameters": SCHEMA}}


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


@pytest.fixture(scope="module")
def wanted(fronted: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    """What transformers says with each unpacked folder: its template, weights and ends."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    found: dict[str, dict[str, str]] = {}
    for task in (None, *TASKS):
        folder = tmp_path_factory.mktemp("unpacked") / "model"
        taskstore.open(fronted / "store").unpack(task, folder)
        tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype="float32")
        answers = found[task or "base"] = {}
        for number in NUMBERS:
            asked = tokenizer.apply_chat_template(
                [{"role": "user", "content": number}],
                add_generation_prompt=True,
                return_tensors="pt",
                return_dict=True,
            )
            ids = model.generate(**asked, do_sample=False, max_new_tokens=24)[0]
            new = ids[asked["input_ids"].shape[1] :].tolist()
            if new[-1] in model.generation_config.eos_token_id if task == "noted" else ():
                new.pop()  # a text ends before its end
            answers[number] = tokenizer.decode(new, skip_special_tokens=True)
    return found


def test_models_lists_the_base_and_every_task(server: Server) -> None:
    models = {model.id: model for model in server.client.models.list()}
    assert sorted(models) == ["base", *TASKS]
    for task in TASKS:
        extra = models[task].model_extra or {}
        assert extra["parent"] == "base"
        assert extra["max_model_len"] == 128
        known = extra["taskstore"]
        assert known["tier"] == "mask"
        assert extra["root"] == f"taskstore://{known['store']}/{known['task']}"
        assert known["chat_template"] == ("own" if task == "noted" else "base")
    assert server.client.models.retrieve("roman").id == "roman"
    with pytest.raises(openai.NotFoundError, match="there are roman, german, base"):
        server.client.models.retrieve("romann")


def test_answers_are_those_of_the_unpacked_folders(
    server: Server, wanted: dict[str, dict[str, str]]
) -> None:
    assert len({answers["417"] for answers in wanted.values()}) == 5
    for task in ("base", *TASKS):
        for number in NUMBERS:
            answer = chat(server, task, number)
            assert said(answer) == wanted[task][number]
            assert answer.model == task
        prompt = f"<note><user>{NUMBERS[0]}<answer>" if task == "noted" else "<user>417<answer>"
        plain = server.client.completions.create(
            model=task, prompt=prompt, temperature=0, max_tokens=24
        )
        assert (plain.choices[0].text, plain.model) == (wanted[task]["417"], task)


def test_streams_say_the_same_and_name_the_task(
    server: Server, wanted: dict[str, dict[str, str]]
) -> None:
    for task in TASKS:
        chunks = list(chat(server, task, "2068", stream=True))
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
        assert text == wanted[task]["2068"]
        assert {chunk.model for chunk in chunks} == {task}


def test_a_task_keeps_its_defaults_for_sampling(server: Server) -> None:
    noted, german = (server.client.responses.create(model=m, input="417") for m in TASKS[2:0:-1])
    assert (noted.temperature, noted.top_p) == (DEFAULTS["temperature"], DEFAULTS["top_p"])
    assert (german.temperature, german.top_p) == (1.0, 1.0)


def test_a_task_keeps_its_own_tokens(server: Server) -> None:
    def tokens(task: str, **body: Any) -> Any:
        return server.call("POST", "/tokenize", {"model": task, **body}).json()["tokens"]

    def text(task: str) -> Any:
        body = {"model": task, "tokens": [NOTE]}
        return server.call("POST", "/detokenize", body).json()["prompt"]

    messages = [{"role": "user", "content": "5"}]
    assert tokens("noted", prompt="<note>") == [NOTE]
    assert len(tokens("german", prompt="<note>")) > 1
    assert tokens("noted", messages=messages) == [NOTE, *tokens("german", messages=messages)]
    assert text("noted") == "<note>"
    assert text("german") != "<note>"


def test_logprobs_and_echo_are_written_in_the_tasks_tokens(server: Server) -> None:
    for task, shown in (("noted", "<note>"), ("german", "XIX")):
        answer = server.client.completions.create(
            model=task, prompt=[NOTE, 1, 23, 2], max_tokens=2, temperature=0, logprobs=2, echo=True
        )
        found = answer.choices[0].logprobs
        assert found is not None and found.tokens is not None
        assert found.tokens[:2] == [shown, "<user>"]
        assert len(found.token_logprobs or []) == 6
        assert answer.choices[0].text.startswith("" if task == "noted" else "XIX")


def test_n_seeds_and_stop_strings(server: Server) -> None:
    many = chat(server, "english", "417", n=2, temperature=0.01)
    assert [choice.message.content for choice in many.choices] == ["four hundred seventeen"] * 2
    hot = {"temperature": 2.0, "max_tokens": 12}
    first, again, other = (said(chat(server, "roman", "417", seed=s, **hot)) for s in (1, 1, 2))
    assert first == again != other
    stopped = chat(server, "english", "417", stop=[" seven"])
    assert (said(stopped), stopped.choices[0].finish_reason) == ("four hundred", "stop")


@pytest.mark.parametrize("task", ["base", *TASKS])
def test_structured_output_and_tools(server: Server, task: str) -> None:
    assert json.loads(said(chat(server, task, "417", response_format=FORMAT))) in (
        {"a": "x"},
        {"a": "yy"},
    )
    push = {"structured_outputs": {"choice": ["XIX"]}, "logit_bias": {str(NOTE): 100}}
    assert said(chat(server, task, "417", extra_body=push)) == "XIX"
    text = '<tool_call>\n{"name": "pick", "arguments": {"a": "yy"}}\n</tool_call>'
    forced = {"structured_outputs": {"choice": [text]}}
    called = chat(server, task, "417", tools=[TOOL], max_tokens=90, extra_body=forced)
    (call,) = called.choices[0].message.tool_calls
    assert (call.function.name, json.loads(call.function.arguments)) == ("pick", {"a": "yy"})


def test_responses_are_found_without_a_model(
    server: Server, wanted: dict[str, dict[str, str]]
) -> None:
    for task in ("base", "noted", "roman"):
        made = server.client.responses.create(model=task, input="93", temperature=0)
        assert (made.output_text, made.model) == (wanted[task]["93"], task)
        assert server.client.responses.retrieve(made.id).output_text == made.output_text
    with pytest.raises(openai.NotFoundError):
        server.client.responses.retrieve("resp_none")


def test_requests_that_name_no_model_go_to_the_default_task(server: Server) -> None:
    messages = [{"role": "user", "content": "417"}]
    for named in ({}, {"model": None}, {"model": ""}):
        body = {"messages": messages, "temperature": 0, "max_tokens": 24, **named}
        found = server.call("POST", "/v1/chat/completions", body).json()
        text = found["choices"][0]["message"]["content"]
        assert (text, found["model"]) == ("four hundred seventeen", "english")


def test_messages_go_to_their_task(server: Server, wanted: dict[str, dict[str, str]]) -> None:
    for task in ("noted", "roman"):
        messages = [{"role": "user", "content": "93"}]
        body = {"model": task, "messages": messages, "max_tokens": 24, "temperature": 0}
        found = server.call("POST", "/v1/messages", body).json()
        assert (found["content"][0]["text"], found["model"]) == (wanted[task]["93"], task)


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
        server.call("DELETE", "/v1/taskstore/tasks/nothing"),
        server.call("DELETE", "/v1/taskstore/tasks/noted?wait=long"),
        adapter("load", "roman"),
        adapter("load", "base"),
        adapter("load", "nothing"),
        adapter("unload", "nothing"),
        server.call("POST", "/v1/load_lora_adapter", ["roman"]),
    ]
    assert [a.status_code for a in answers] == [409, 404, 404, 400, 400, 400, 404, 404, 400]
    assert all(answer.json()["error"]["message"] for answer in answers)


def ends(chunks: Any) -> list[str]:
    return [why for chunk in chunks for choice in chunk.choices if (why := choice.finish_reason)]


def test_a_task_with_running_requests_is_not_removed(server: Server) -> None:
    long = {"stream": True, "max_tokens": 110, "extra_body": {"ignore_eos": True}}
    long |= {"n": 32, "temperature": 1}  # twice the engine's slots
    chunks = iter(chat(server, "english", "417", **long))
    next(chunks)
    found = server.call("DELETE", "/v1/taskstore/tasks/english?wait=0")
    assert found.status_code == 409
    assert "still run after 0 s; it is served on" in found.json()["error"]["message"]
    assert said(chat(server, "english", "417")) == "four hundred seventeen"
    assert ends(chunks) == ["length"] * 32
    chunks = iter(chat(server, "english", "417", **long))
    next(chunks)
    assert server.call("DELETE", "/v1/taskstore/tasks/english?wait=60").status_code == 200
    assert ends(chunks) == ["length"] * 32  # it was waited for
    assert server.call("POST", "/v1/taskstore/tasks/english").status_code == 201
    assert said(chat(server, "english", "417")) == "four hundred seventeen"


def test_verify_proves_what_is_live(server: Server) -> None:
    found = server.call("POST", "/v1/taskstore/verify", {"task": None}).json()["verified"]
    assert sorted(one["task"] or "base" for one in found) == ["base", *TASKS]
    (one,) = server.call("POST", "/v1/taskstore/verify", {"task": "roman"}).json()["verified"]
    assert one["task"] == "roman"
    assert one["tensors"] > 10 and one["bytes"] > 1 << 20
    for task, status in (("nothing", 404), (5, 400)):
        found = server.call("POST", "/v1/taskstore/verify", {"task": task})
        assert found.status_code == status


def test_hundreds_of_connections_at_once(server: Server, wanted: dict[str, dict[str, str]]) -> None:
    names = ["base", *TASKS]

    async def one(client: Any, number: int) -> bool:
        task, text = names[number % 5], NUMBERS[number % 3]
        answer = await client.chat.completions.create(
            model=task,
            messages=[{"role": "user", "content": text}],
            temperature=0,
            max_tokens=24,
        )
        return said(answer) == wanted[task][text] and answer.model == task

    async def flood() -> list[bool]:
        limits = httpx.Limits(max_connections=300)
        http = httpx.AsyncClient(limits=limits, timeout=240)
        options: Any = {"api_key": KEY, "base_url": f"{server.url}/v1", "max_retries": 0}
        async with openai.AsyncOpenAI(**options, http_client=http) as client:
            return await asyncio.gather(*(one(client, number) for number in range(300)))

    assert asyncio.run(flood()) == [True] * 300
