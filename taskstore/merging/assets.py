"""Config, tokenizer and templates of a merged model, and what differs between the models.

What all models have in common wins over the base's: a chat template that every fine-tune brought,
an end of text that all of them use. JSON is compared member by member, other files whole; a model
that has no such file has no say. A vocabulary is taken whole, or not at all, and with it what
speaks of its tokens. Everything that is not simply the base's becomes a note.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from taskstore.format import json_text
from taskstore.locations.files import read_regular
from taskstore.models import Checkpoint
from taskstore.models.config import CONFIG, language_config

VOCABULARY = ("tokenizer.json", "vocab.json", "merges.txt", "vocab.txt", "tokenizer.model",
              "spiece.model", "sentencepiece.bpe.model", "added_tokens.json")  # fmt: skip
TOKENS = ("tokenizer_config.json", "special_tokens_map.json")  # speak of a vocabulary's tokens
TEMPLATE, GENERATION = "chat_template.jinja", "generation_config.json"
# members that say how a model was saved, or go with its head
_OWN = frozenset(
    {"_name_or_path", "name_or_path", "transformers_version", "dtype", "torch_dtype", "use_cache"}
    | {"architectures", "auto_map", "id2label", "label2id", "num_labels", "problem_type"}
    | {"vocab_size", "quantization_config", "model_type", "_from_model_config"}
)
_MAX = 64 << 20
_NONE = object()


@dataclass
class Agreed:
    """`files` are path -> the bytes to write in place of the base's; `notes` path -> why."""

    files: dict[str, bytes] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Model:
    """The files of one model."""

    name: str
    assets: Mapping[str, Path]
    rows: int = 0

    @classmethod
    def of(cls, model: Checkpoint) -> Model:
        rows = language_config(model).get("vocab_size")
        return cls(model.name, model.assets, rows if isinstance(rows, int) else 0)

    def read(self, path: str) -> bytes | None:
        """Return a file's bytes; None where there is none, or it is too large to be compared."""
        if path not in self.assets or self.assets[path].stat().st_size > _MAX:
            return None
        return read_regular(self.assets[path], _MAX)

    def settings(self, path: str) -> dict[str, Any]:
        return _object(self.read(path))

    @cached_property
    def tokens(self) -> dict[int, str]:
        """The token of each row, as far as JSON says it."""
        whole = self.settings("tokenizer.json")
        known = whole.get("model")
        vocab = known.get("vocab") if isinstance(known, dict) else self.settings("vocab.json")
        listed = list(vocab.items()) if isinstance(vocab, dict) else []
        if isinstance(vocab, list):  # Unigram: [token, score], by row
            listed = [(v[0], row) for row, v in enumerate(vocab) if isinstance(v, list) and v]
        added = whole.get("added_tokens")
        for token in added if isinstance(added, list) else []:
            if isinstance(token, dict):
                listed.append((token.get("content"), token.get("id")))
        listed += self.settings("added_tokens.json").items()
        return {row: str(token) for token, row in listed if isinstance(row, int)}


def agree(base: Checkpoint, tasks: tuple[Checkpoint, ...]) -> Agreed:
    """Find what all models share, where the base has something else."""
    found = Agreed()
    old, models = Model.of(base), [Model.of(task) for task in tasks if task.assets]
    _note_tokens(old, models, found)
    speakers = [m for m in models if any(path in m.assets for path in (*VOCABULARY, *TOKENS))]
    own = _vocabulary(old, speakers, found)
    if own:
        for path in TOKENS:
            _members(path, old, speakers, found)
        _template(old, speakers, found)
    for path in (CONFIG, GENERATION):
        _members(path, old, [m for m in models if path in m.assets], found, ids=own)
    return found


def _vocabulary(base: Model, models: list[Model], found: Agreed) -> bool:
    """Take the models' vocabulary, or leave the base's; tell whether it is that of all models."""
    same = True
    for path in VOCABULARY:
        theirs, ours = [model.read(path) for model in models], base.read(path)
        if all(raw == ours for raw in theirs) or not any(theirs):
            continue
        if any(raw != theirs[0] for raw in theirs):
            found.notes[path] = f"differs between the models; {_taken(ours)}"
            same = False
    if not same or not models:
        return same
    top = max(models[0].tokens, default=-1)
    if 0 < base.rows <= top:
        found.notes["vocabulary"] = (
            f"all models have tokens up to row {top}, and the merged model has {base.rows} rows; "
            "the base's tokenizer is taken: tokenizer_from=NAME takes one model's with its rows"
        )
        return False
    for path in VOCABULARY:
        raw, ours = models[0].read(path), base.read(path)
        if raw is not None and raw != ours:
            found.files[path] = raw
            found.notes[path] = f"as all models have it; {_base_has(ours)}"
    return True


def _template(base: Model, models: list[Model], found: Agreed) -> None:
    theirs = {_template_of(model) for model in models}
    old = _template_of(base)
    if theirs <= {old}:
        return
    if len(theirs) > 1:
        lacking = [model.name for model in models if not _template_of(model)]
        some = f" ({', '.join(lacking)} has none)" if lacking else ""
        found.notes["chat template"] = f"differs between the models{some}; {_taken(old)}"
        return
    text = theirs.pop()
    if text and TEMPLATE in {**base.assets, **models[0].assets}:
        found.files[TEMPLATE] = text.encode()
    found.notes["chat template"] = f"as all models have it; {_base_has(old)}"


def _template_of(model: Model) -> str:
    """Return a chat template as transformers finds it: its own file first."""
    if (raw := model.read(TEMPLATE)) is not None:
        return raw.decode(errors="replace")
    inside = model.settings("tokenizer_config.json").get("chat_template")
    return inside if isinstance(inside, str) else json.dumps(inside) if inside else ""


def _members(
    path: str, base: Model, models: list[Model], found: Agreed, *, ids: bool = True
) -> None:
    """Take the members of a JSON file that all models share; `ids`: those of tokens, too."""
    theirs, old = [model.settings(path) for model in models], base.settings(path)
    taken, notes = dict(old), []
    for key in sorted({key for one in theirs for key in one} - _OWN):
        before = old.get(key, _NONE)
        values = [_inner(one.get(key, _NONE), before) for one in theirs]
        if all(value == before for value in values):
            continue
        agreed = all(value == values[0] for value in values)
        if agreed and (ids or not key.endswith("token_id")):
            taken[key] = values[0]
            if key != "chat_template":
                notes.append(f"{key} {_short(values[0])} as all models have it, not {_of(before)}")
        elif key != "chat_template":
            some = zip(models, values, strict=True)
            each = ", ".join(f"{m.name} {_short(v)}" for m, v in list(some)[:4])
            notes.append(f"{key} differs ({each}), taken is {_of(before)}")
    if taken != old and models:
        text = json.dumps(taken, indent=2, ensure_ascii=False) + "\n"
        found.files[path] = text.encode(errors="replace")
    if notes:
        more = f"; and {len(notes) - 8} more members" if len(notes) > 8 else ""
        found.notes[path] = "; ".join(notes[:8]) + more


def _inner(value: object, before: object) -> object:
    """Leave the base its own members of a part of a config, such as `text_config`."""
    if not isinstance(value, dict) or not isinstance(before, dict):
        return value
    rest = {key: inside for key, inside in value.items() if key not in _OWN}
    return {**rest, **{key: inside for key, inside in before.items() if key in _OWN}}


def _note_tokens(base: Model, models: list[Model], found: Agreed) -> None:
    """Note rows of an embedding that mean one token here and another there."""
    seen = {row: (token, base.name) for row, token in base.tokens.items()}
    for model in models:
        if all(model.read(path) == base.read(path) for path in VOCABULARY):
            continue
        other = [row for row, token in model.tokens.items() if seen.get(row, (token,))[0] != token]
        if other:
            token, owner = seen[row := min(other)]
            found.notes[f"tokenizer of {model.name}"] = (
                f"row {row} of the embedding is {_short(model.tokens[row])} here and "
                f"{_short(token)} in {owner}; so are {len(other)} rows: their mean means neither"
            )
        for row, token in model.tokens.items():
            seen.setdefault(row, (token, model.name))


def _object(raw: bytes | None) -> dict[str, Any]:
    try:
        found = json_text.parse(raw or b"{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _taken(old: object) -> str:
    return "the base's is taken" if old else "none is taken, as the base has none"


def _base_has(old: object) -> str:
    return "the base has another" if old else "the base has none"


def _of(value: object) -> str:
    return "none, as the base has it" if value is _NONE else f"the base's {_short(value)}"


def _short(value: object) -> str:
    if value is _NONE:
        return "none"
    text = json.dumps(value, ensure_ascii=True)
    return text if len(text) <= 40 else f"{text[:37]}..."
