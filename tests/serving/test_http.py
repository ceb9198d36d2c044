"""Every task as a model of one real server, over HTTP, with OpenAI's own client."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

import taskstore
from tests.serving.support.fronted import DEFAULTS, NOTE, NUMBERS, TASKS, Server, chat, said

openai = pytest.importorskip("openai", reason="comes with vLLM, which is not installed")

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]
SCHEMA = {
    "type": "object",
    "properties": {"a": {"enum": ["x", "yy"]}},
    "required": ["a"],
    "additionalProperties": False,
}
FORMAT = {"type": "json_schema", "json_schema": {"name": "thing", "schema": SCHEMA}}
TOOL = {"type": "function", "function": {"name": "pick", "parameters": SCHEMA}}


def test_models_lists_the_base_and_every_task(server: Server, fronted: Path) -> None:
    models = {model.id: model for model in server.client.models.list()}
    assert sorted(models) == ["base", *TASKS]
    for task in TASKS:
        extra = models[task].model_extra or {}
        assert extra["parent"] == "base"
        assert extra["max_model_len"] == 128
        known = extra["taskstore"]
        assert known["tier"] == "mask"
        assert known["fidelity"] == asdict(taskstore.open(fronted / "store").fidelity(task))
        assert known["fidelity"]["grade"] in "ABC"
        assert known["scores"] is None
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
