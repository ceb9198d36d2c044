"""Lines on stderr, as a server writes them."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Iterator
from dataclasses import replace

import pytest
from taskstore_serving.metrics import logs
from taskstore_serving.metrics.requests import Finished

from tests.serving.support.loggers import fresh_loggers

FACTS = Finished("german", "cmpl-1", "stop", 12, 8, 24, 0.0125, 0.04, 0.01, 1.5)


@pytest.fixture(autouse=True)
def _loggers(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("TASKSTORE_LOG", raising=False)
    monkeypatch.delenv("VLLM_CONFIGURE_LOGGING", raising=False)
    with fresh_loggers("taskstore", "taskstore.serving", "vllm"):
        yield


def written(capsys: pytest.CaptureFixture[str]) -> list[str]:
    out, err = capsys.readouterr()
    assert not out
    return err.splitlines()


def test_one_line_a_request_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure()
    logs.configure()
    logs.finished(FACTS)
    (line,) = written(capsys)
    assert re.match(rf"INFO .* \[taskstore.serving pid={os.getpid()}\] german: request ", line)
    assert line.endswith(
        "german: request 'cmpl-1' stop; tokens: 12 prompt, 8 cached, 24 generated; "
        "seconds: 0.013 queue, 0.040 first token, 1.500 total"
    )


def test_one_object_a_request_for_machines(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TASKSTORE_LOG", "json")
    logs.configure()
    logs.finished(replace(FACTS, queue_seconds=None))
    logging.getLogger("taskstore").warning("no %s", "triton")
    request, other = map(json.loads, written(capsys))
    assert request.pop("time").endswith("+00:00") and request.pop("message")
    assert request == {
        "level": "INFO",
        "logger": "taskstore.serving",
        "pid": os.getpid(),
        "event": "request",
        "task": "german",
        "request": "cmpl-1",
        "outcome": "stop",
        "prompt_tokens": 12,
        "cached_tokens": 8,
        "generation_tokens": 24,
        "queue_seconds": None,
        "first_token_seconds": 0.04,
        "inter_token_seconds": 0.01,
        "total_seconds": 1.5,
    }
    assert (other["level"], other["message"]) == ("WARNING", "no triton")


@pytest.mark.parametrize("format", ["text", "json"])
def test_a_clients_request_id_cannot_write_lines_of_its_own(
    format: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TASKSTORE_LOG", format)
    logs.configure()
    logs.finished(replace(FACTS, request="x\nINFO forged\r\x1b[2J" + "y" * 10_000))
    (line,) = written(capsys)
    assert len(line) < 1000 and "\x1b" not in line and "\r" not in line


def test_swaps_are_said_when_the_engine_is_loud(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure()
    logs.swapped("german", None, 0.0215)
    assert written(capsys) == []
    logging.getLogger("vllm").setLevel(logging.DEBUG)  # --log-level, known later
    logs.configure()
    logs.swapped("german", None, 0.0215)
    (line,) = written(capsys)
    assert line.startswith("DEBUG") and line.endswith("swap german to base: 21.5 ms")


def test_a_quiet_engine_keeps_us_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    logging.getLogger("vllm").setLevel(logging.WARNING)
    logs.configure()
    logs.finished(FACTS)
    assert written(capsys) == []


@pytest.mark.parametrize("name", ["taskstore", "taskstore.serving"])
def test_a_configuration_of_the_users_stands(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    records: list[logging.LogRecord] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            records.append(record)

    logging.getLogger(name).addHandler(Keep())
    logging.getLogger(name).setLevel(logging.INFO)
    logs.configure()
    logs.finished(FACTS)
    assert len(records) == 1 and written(capsys) == []


def test_no_logging_of_vllms_means_none_of_ours(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_CONFIGURE_LOGGING", "0")
    logs.configure()
    logs.finished(FACTS)
    assert written(capsys) == []
