"""Structured output with the vocabulary of the request's task.

The engine makes grammars for one tokenizer. A fine-tune may have tokens of its own, or another end
token. A task whose tokenizer differs from the base's gets a manager of its own, made when it is
first needed. Requests that are scheduled together still share one bitmask.

A grammar that does not compile, or that allows no next token, is the client's mistake. vLLM ends
such a request with an error of its own; `say_why` has the reason travel to the API process.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from copy import copy
from typing import Any

from vllm.tokenizers import cached_tokenizer_from_config
from vllm.v1.structured_output import StructuredOutputManager

from taskstore.locations.scratch import scratch
from taskstore_serving.assets import assets_key
from taskstore_serving.options import ServeOptions

UNUSABLE = "the structured output cannot be used: "
_SOURCE = re.compile(r"^(\[[\d:]+\] \S+:\d+: )?(Check failed: \(.*?\) is false: )?")


class TaskGrammars(StructuredOutputManager):
    """vLLM's manager, which asks the manager of a request's task.

    Why `adopt` replaces `__class__`: vLLM's engine core makes the manager itself, no option names
    another class, and it keeps the manager beside the scheduler that it gives it to. A second
    manager in the scheduler would leave the core compiling grammars for the base's tokenizer, and
    patched methods of vLLM's class would act in the tasks' own managers too, which are plain ones.

    What breaks it: a vLLM that renames a method below, or gives the class `__slots__`.
    `checks.versions` refuses versions that were not tested.
    """

    _grammar_bitmask: Any
    _others: dict[str, StructuredOutputManager]
    _of_request: dict[int, StructuredOutputManager]
    _refused: dict[str, str]  # ids of requests whose grammar let no token pass -> why

    @staticmethod
    def adopt(manager: Any) -> None:
        """Make the engine's own manager, as it is, one of this class."""
        manager.__class__ = TaskGrammars
        manager._others = {}
        manager._of_request = {}
        manager._refused = {}

    def grammar_init(self, request: Any) -> None:
        mine = self._of(request)
        StructuredOutputManager.grammar_init(mine, request)

    def grammar_bitmask(self, requests: Any, ids: Any, *args: Any) -> Any:
        if ids and self._grammar_bitmask is None and self.backend is None:
            width = 1 + self.vllm_config.num_speculative_tokens
            rows = self.vllm_config.scheduler_config.max_num_seqs * width
            backend = self._of(requests[ids[0]]).backend
            self._grammar_bitmask = backend.allocate_token_bitmask(rows)
        return super().grammar_bitmask(requests, ids, *args)

    def accept_tokens(self, request: Any, tokens: list[int]) -> bool:
        accepted: bool = super().accept_tokens(request, tokens)
        if not accepted:
            self._refused[request.request_id] = "its grammar allows no next token"
        return accepted

    def say_why(self, uncompiled: Mapping[str, Any], outputs: Mapping[Any, Any]) -> None:
        """Write the reason into a step's outputs of requests whose grammar is of no use.

        `uncompiled`: requests by their ids whose grammars did not compile.
        """
        why, self._refused = self._refused, {}
        why |= {name: _reason(one) for name, one in uncompiled.items()}
        if why:
            for output in (one for client in outputs.values() for one in client.outputs):
                if output.request_id in why:
                    output.stop_reason = UNUSABLE + why[output.request_id]

    def _get_reasoner(self, request: Any) -> Any:
        return StructuredOutputManager._get_reasoner(self._of(request), request)

    def clear_backend(self) -> None:
        for other in self._others.values():
            if other is not self:
                other.clear_backend()
        super().clear_backend()

    def _of(self, request: Any) -> StructuredOutputManager:
        """The manager of a request's task; no two tasks, or states of one, have the same id."""
        if request.lora_request is None:
            return self
        number = request.lora_request.lora_int_id
        if number not in self._of_request:
            self._of_request[number] = self._make(request.lora_request.lora_name)
        found: StructuredOutputManager = self._of_request[number]
        return found

    def _make(self, task: str) -> StructuredOutputManager:
        options = ServeOptions.parse(self.vllm_config.load_config.model_loader_extra_config)
        store = options.open_store()
        with scratch(store.path, small=True) as written:
            folder = store.write_assets(task, written)
            key = assets_key(folder)
            if key not in self._others:
                config = copy(self.vllm_config)
                config.model_config = copy(config.model_config)
                config.model_config.tokenizer = str(folder)
                tokenizer = cached_tokenizer_from_config(config.model_config)
                same = alike(tokenizer, self.tokenizer)
                self._others[key] = self if same else StructuredOutputManager(config)
        found: StructuredOutputManager = self._others[key]
        return found


def _reason(request: Any) -> str:
    """Why a grammar did not compile, without the compiler's own source lines."""
    said = str(request.structured_output_request.grammar).split("\n")[0]
    return _SOURCE.sub("", said)[:300] or "it does not compile"


def alike(one: Any, other: Any) -> bool:
    """Whether grammars made for one tokenizer are right for the other."""
    return bool(
        one.get_vocab() == other.get_vocab()
        and set(one.all_special_ids) == set(other.all_special_ids)
        and one.eos_token_id == other.eos_token_id
    )
