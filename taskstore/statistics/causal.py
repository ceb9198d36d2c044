"""Encodes examples for language models; the loss is that of the answer's tokens, summed.

    {"prompt": ..., "answer": ...}   the answer and the tokens that end it
    {"messages": [...]}              the last turn, which must be the assistant's
    {"text": ...}                    every token but the first

Where a tokenizer has a chat template, prompt and answer become a user's and an assistant's turn. An
example that is too long loses the beginning of its prompt, never its answer; a text loses its end.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from taskstore.statistics.examples import Encoder, Example
from taskstore.statistics.records import Record

FORMS = '{"prompt", "answer"}, {"messages"} or {"text"}'


class Causal(Encoder):
    loss = "minus log p of the answer's tokens, summed"
    classes = False
    always: Mapping[str, Any] = {"use_cache": False}

    def __init__(self, module: Any, tokenizer: Any, max_length: int) -> None:
        self._tokenizer, self._max_length = tokenizer, max_length
        self._keeps = "logits_to_keep" in inspect.signature(module.forward).parameters

    def encode(self, record: Record, needs_label: bool) -> Example:
        prompt, answer = self._tokens(record)
        if not answer or len(prompt) + len(answer) < 2:
            raise record.fail("has no token to predict")
        most = self._max_length
        truncated = len(prompt) + len(answer) > most
        if prompt:
            answer = answer[: most - 1]
            prompt = prompt[max(0, len(prompt) + len(answer) - most) :]
            count = len(answer)
        else:
            answer = answer[:most]
            count = len(answer) - 1
        ids_L = torch.tensor([*prompt, *answer])
        return Example({"input_ids": ids_L[None]}, count, ids_L[-count:], truncated)

    def logits(self, module: Any, example: Example) -> Tensor:
        keep: dict[str, Any] = {"logits_to_keep": example.answers + 1} if self._keeps else {}
        out = module(**example.inputs, **self.always, **keep)
        logits_AV: Tensor = out.logits[0, -example.answers - 1 : -1]
        return logits_AV

    def _tokens(self, record: Record) -> tuple[list[int], list[int]]:
        """Tokens of the prompt, and of what is predicted given them."""
        if "messages" in record.value:
            return self._turns(record, record.value["messages"])
        if "text" in record.value:
            return [], self._ids(record.text("text"), special=True)
        if "prompt" not in record.value:
            raise record.fail(f"is none of {FORMS}")
        prompt, answer = record.text("prompt"), record.text("answer")
        if self._tokenizer.chat_template:
            user = {"role": "user", "content": prompt}
            own = {"role": "assistant", "content": answer}
            return self._turns(record, [user, own])
        end = self._tokenizer.eos_token_id
        before = self._ids(prompt, special=True)
        while before and before[-1] == end:
            before.pop()
        return before, [*self._ids(answer), *([end] if end is not None else [])]

    def _turns(self, record: Record, messages: Any) -> tuple[list[int], list[int]]:
        if not self._tokenizer.chat_template:
            raise record.fail("has messages, and the model's tokenizer has no chat template")
        if not isinstance(messages, list) or not all(isinstance(m, dict) for m in messages):
            raise record.fail("'messages' is no list of {'role', 'content'}")
        if len(messages) < 2 or messages[-1].get("role") != "assistant":
            raise record.fail("the last of 'messages' is not an answer of the assistant")
        try:
            before = self._render(messages[:-1], add_generation_prompt=True)
            whole = self._render(messages)
        except Exception as error:  # a template is a program of the model's author
            raise record.fail(f"does not fit the chat template: {error}") from None
        if not whole.startswith(before):
            raise record.fail("the chat template writes the prompt otherwise once it is answered")
        # White space that a template puts after the token that ends a turn is never generated.
        return self._ids(before), self._ids(whole[len(before) :].rstrip())

    def _render(self, messages: list[Any], **more: Any) -> str:
        text: str = self._tokenizer.apply_chat_template(messages, tokenize=False, **more)
        return text

    def _ids(self, text: str, special: bool = False) -> list[int]:
        found = self._tokenizer(text, add_special_tokens=special, verbose=False)
        ids: list[int] = found["input_ids"]
        return ids
