"""The vocabulary of a merged model, made from those of several: its tokens and its tokenizer.

A token is its text. Only tokenizer.json is read: it says all of a fast tokenizer. Tokens past a
model's `vocab_size` have no row in its weights and do not count.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NoReturn

from taskstore.errors import InputError
from taskstore.format import json_text
from taskstore.merging.assets import VOCABULARY, Model
from taskstore.models.checkpoint import Checkpoint
from taskstore.models.config import language_config

TOKENIZER = "tokenizer.json"
UNION, BASE = "union", "base"
_NEW = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": True,
        "special": False}  # fmt: skip


@dataclass(frozen=True)
class Given:
    """The row that a recipe gives one token.

    model   the name of the model that it is from, "": the base, None: zeros
    token   its text there, or its number, None: the same token
    force   also for models that have the token
    """

    model: str | None
    token: str | int | None = None
    force: bool = False


@dataclass(frozen=True)
class Wanted:
    """What a recipe says of the tokenizer.

    source     union, base, or the name of a model
    order      the models beside the base, as the recipe lists them
    has_base   whether the recipe names a base; its rows go before those of others
    tokens     token -> the row that it takes; those that no tokenizer has are added
    multiple   the rows are filled up to a multiple of it
    """

    source: str
    order: Sequence[str] = ()
    has_base: bool = True
    tokens: Mapping[str, Given] = field(default_factory=dict)
    multiple: int = 1


@dataclass(frozen=True)
class Vocabulary:
    """The tokenizer of one model.

    rows   of the model's weights
    file   its tokenizer.json
    ids    token -> number, as the tokenizer counts
    added  its added tokens, by text
    """

    name: str
    rows: int
    file: Mapping[str, Any]
    ids: Mapping[str, int]
    added: Mapping[str, Mapping[str, Any]]

    @cached_property
    def tokens(self) -> dict[str, int]:
        """Token -> row of the weights, by rows."""
        held = sorted((row, token) for token, row in self.ids.items() if row < self.rows)
        return {token: row for row, token in held}


@dataclass
class Result:
    """The vocabulary of the result; `file` None: the tokenizer stays as it is."""

    ids: dict[str, int]
    file: dict[str, Any] | None = None
    notes: list[str] = field(default_factory=list)
    multiple: int = 1

    @property
    def rows(self) -> int:
        """Rows of the result's weights: one per token, and those that fill up."""
        return -(-len(self.ids) // self.multiple) * self.multiple


def read(model: Checkpoint, base: Checkpoint) -> Vocabulary | None:
    """A model's tokenizer, with the rows of its config, or the base's; None where there is none.

    Raises InputError for one that is not fast, or broken.
    """
    raw = Model.of(model).read(TOKENIZER)
    if raw is None:
        slow = [path for path in VOCABULARY if path in model.assets]
        if not slow:
            return None
        _fail(
            model.name,
            f"has {slow[0]}, and no {TOKENIZER} that can be read; save it as a fast tokenizer "
            "(AutoTokenizer.from_pretrained(...).save_pretrained)",
        )
    try:
        file = json_text.parse(raw)
    except ValueError as error:
        _fail(model.name, f"has a {TOKENIZER} that cannot be read: {error}")
    known = file.get("model") if isinstance(file, dict) else None
    vocab = known.get("vocab") if isinstance(known, dict) else None
    if isinstance(vocab, list):  # Unigram: [token, score], by number
        vocab = {
            v[0]: n
            for n, v in enumerate(vocab)
            if isinstance(v, list) and v and isinstance(v[0], str)
        }
    added = file.get("added_tokens") or [] if isinstance(file, dict) else []
    if not isinstance(vocab, dict) or not isinstance(added, list):
        _fail(model.name, f"has no vocabulary in its {TOKENIZER}")
    if not all(isinstance(one, dict) and isinstance(one.get("content"), str) for one in added):
        _fail(model.name, f"has an added token without text in its {TOKENIZER}")
    ids = {**vocab, **{one["content"]: one.get("id") for one in added}}
    for token, number in ids.items():
        if type(number) is not int or number < 0:
            _fail(model.name, f"has the number {json.dumps(number)[:20]} for token {_short(token)}")
    if any(re.search("[\ud800-\udfff]", token) for token in ids):
        _fail(model.name, f"has a token in its {TOKENIZER} that is no text")
    rows = rows_of(model, base)
    return Vocabulary(model.name, rows, file, ids, {one["content"]: one for one in added})


def rows_of(model: Checkpoint, base: Checkpoint) -> int:
    """Rows of a model's vocabulary, as its config says, or the base's for want of one."""
    sizes = [language_config(one).get("vocab_size") for one in (model, base)]
    rows = next((size for size in sizes if type(size) is int and size > 0), 0)
    return rows or _fail(model.name, "has no vocab_size in its config")


def as_it_is(one: Vocabulary) -> Result:
    """The result with one model's tokenizer, without the tokens that have no row."""
    result = Result(dict(one.tokens))
    unused = one.ids.keys() - one.tokens.keys()
    if unused:
        kind = one.file["model"].get("type")
        if kind != "BPE":
            _fail(
                one.name,
                f"has {len(unused)} tokens past its {one.rows} rows ({_short(min(unused))}), and "
                f"they can be taken out of BPE only, not of {kind}",
            )
        result.file = _without(one, unused)
        result.notes.append(f"{len(unused)} tokens past the {one.rows} rows of {one.name} left out")
    numbers = sorted(result.ids.values())
    if numbers != list(range(len(numbers))):
        _fail(
            one.name,
            "has a tokenizer whose numbers have gaps, or stand for two tokens; save it again, or "
            "take the tokenizer of another model",
        )
    return result


def union(base: Vocabulary, others: Sequence[Vocabulary]) -> Result:
    """The base's tokenizer, and after it each token of the others, as an added token.

    Plain tokens come first, then added ones with their settings; model by model, each by rows.
    Raises InputError where a token is special in one model and not in another.
    """
    result, new = as_it_is(base), list[Mapping[str, Any]]()
    settings = {token: one for token, one in base.added.items() if token in base.tokens}
    mine = set(settings)
    for other in others:
        for token, one in other.added.items():
            if token not in other.tokens:
                continue
            first = settings.setdefault(token, one)
            if bool(first.get("special")) != bool(one.get("special")):
                kinds = ["special" if o.get("special") else "plain" for o in (one, first)]
                _fail(
                    other.name,
                    f"has {_short(token)} as a {kinds[0]} added token, which is a {kinds[1]} one "
                    "elsewhere; take the tokenizer of one model",
                )
            if any(first.get(key) != one.get(key) for key in _NEW):
                result.notes.append(f"{_short(token)} has other settings in {other.name}")
    for other in others:
        for token in other.tokens:
            if token not in settings and token not in result.ids:
                result.ids[token] = len(result.ids)
                new.append({"id": result.ids[token], "content": token, **_NEW})
    for token, one in settings.items():
        if token not in mine:
            number = result.ids.setdefault(token, len(result.ids))
            new.append({**one, "id": number})
    return _behind(result, base, new)


def with_tokens(result: Result, owner: Vocabulary, tokens: Iterable[str]) -> Result:
    """The result with each token that it lacks behind it, as a plain added token."""
    new = list[Mapping[str, Any]]()
    for token in tokens:
        if token not in result.ids:
            result.ids[token] = len(result.ids)
            new.append({"id": result.ids[token], "content": token, **_NEW})
    return _behind(result, owner, new)


def _behind(result: Result, owner: Vocabulary, new: Sequence[Mapping[str, Any]]) -> Result:
    """The result whose tokenizer has these added tokens, too."""
    if new:
        file = dict(result.file or owner.file)
        every = [*(file.get("added_tokens") or []), *new]
        result.file = file | {"added_tokens": sorted(every, key=lambda one: int(one["id"]))}
    return result


def _without(one: Vocabulary, unused: set[str]) -> dict[str, Any]:
    """A BPE tokenizer.json without some tokens, and without the merges that need them."""
    model = dict(one.file["model"])

    def kept(merge: object) -> bool:
        parts = merge.split(" ") if isinstance(merge, str) else merge
        if not isinstance(parts, list) or not all(isinstance(part, str) for part in parts):
            _fail(one.name, f"has a merge in its {TOKENIZER} that cannot be read")
        return not unused.intersection([*parts, "".join(parts)])

    model["vocab"] = {t: n for t, n in one.ids.items() if t in model["vocab"] and t not in unused}
    model["merges"] = [merge for merge in model.get("merges") or [] if kept(merge)]
    added = [a for a in one.file.get("added_tokens") or [] if a["content"] not in unused]
    return {**one.file, "model": model, "added_tokens": added}


def _short(token: str) -> str:
    return json.dumps(token)[:40]


def _fail(name: str, problem: str) -> NoReturn:
    raise InputError(f"{name} {problem}")
