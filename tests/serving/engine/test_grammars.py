"""Grammars that are of no use: whose fault it is, and why."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from tests.serving.support.engines import need_vllm

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]
LONG = (
    "[09:27:49] /project/cpp/functor.cc:2340: Check failed: (lower >= 0 && upper == -1) is false: "
    "Invalid repetition range {-1, -1}\nStack trace"
)


def output(name: str) -> Any:
    return SimpleNamespace(request_id=name, stop_reason=None)


def test_the_reason_travels_with_the_end_of_its_request_alone() -> None:
    need_vllm()
    from taskstore_serving.engine.grammars import UNUSABLE, TaskGrammars
    from vllm.v1.structured_output import StructuredOutputManager

    manager: Any = StructuredOutputManager.__new__(StructuredOutputManager)
    TaskGrammars.adopt(manager)
    manager._get_constraint_bounds = lambda *_, **__: (0, 0)
    grammar = SimpleNamespace(accept_tokens=lambda name, _: name == "good")
    for name in ("good", "stuck"):
        of_request = SimpleNamespace(grammar=grammar)
        manager.accept_tokens(
            SimpleNamespace(
                request_id=name, use_structured_output=True, structured_output_request=of_request
            ),
            [0],
        )
    bad = {
        name: SimpleNamespace(structured_output_request=SimpleNamespace(grammar=ValueError(text)))
        for name, text in {"compiled": LONG, "silent": "", "timed": "timed out after 5s"}.items()
    }
    outputs = [output(name) for name in ("good", "stuck", "compiled", "silent", "timed")]
    manager.say_why(bad, {0: SimpleNamespace(outputs=outputs)})
    assert [one.stop_reason and one.stop_reason.removeprefix(UNUSABLE) for one in outputs] == [
        None,
        "its grammar allows no next token",
        "Invalid repetition range {-1, -1}",
        "it does not compile",
        "timed out after 5s",
    ]
    again = output("stuck")
    manager.say_why({}, {0: SimpleNamespace(outputs=[again])})
    assert again.stop_reason is None


def test_clients_may_send_again_what_a_failed_swap_ended() -> None:
    need_vllm()
    from taskstore_serving.api import client_errors
    from taskstore_serving.engine.failed_step import FAILED
    from taskstore_serving.engine.grammars import UNUSABLE
    from vllm.exceptions import RetryableRequestError, VLLMValidationError

    with pytest.raises(RetryableRequestError, match="the bus is gone") as caught:
        client_errors._check(f"{FAILED}the bus is gone")
    assert caught.value.status_code == 503
    with pytest.raises(VLLMValidationError):
        client_errors._check(f"{UNUSABLE}no")
    client_errors._check("another")
