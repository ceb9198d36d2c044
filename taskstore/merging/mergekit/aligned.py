"""Models whose embeddings and heads have the rows of one vocabulary, by the tokens' texts."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from taskstore.errors import InputError
from taskstore.format.dtypes import MASKED
from taskstore.merging.assets import GENERATION, TEMPLATE, TOKENS, VOCABULARY
from taskstore.merging.mergekit.layers import PartsReader
from taskstore.merging.mergekit.rows import I64, ZERO, Part, Rows, RowsReader, instead, taken
from taskstore.merging.mergekit.vocabulary import (
    BASE,
    TOKENIZER,
    UNION,
    Result,
    Vocabulary,
    Wanted,
    as_it_is,
    read,
    rows_of,
    union,
    with_tokens,
)
from taskstore.merging.methods.lines import NUMBER
from taskstore.models.checkpoint import Checkpoint
from taskstore.models.config import CONFIG, read_settings, write_settings
from taskstore.models.family import Family

_NAMES = re.compile(
    r"(embed_tokens|embed_in|embed_out|wte|word_embeddings|tok_embeddings|lm_head|shared)\b"
)


@dataclass(frozen=True)
class Aligned:
    """A view of a family: its models with the wanted rows."""

    wanted: Wanted

    def __call__(self, family: Family) -> AbstractContextManager[Family]:
        return aligned(self.wanted, family)


_SPEAK = frozenset({*VOCABULARY, *TOKENS, TEMPLATE})


@contextmanager
def aligned(wanted: Wanted, family: Family) -> Iterator[Family]:
    """The family with the rows, tokenizer files and token numbers of the result.

    Raises InputError, with the model's name, for a tokenizer that cannot be aligned.
    """
    every = _Vocabularies(family)
    if not every.found:
        if wanted.source == UNION:
            raise InputError("tokenizer_source is union, and no model has a tokenizer")
        yield family
        return
    owner, result = every.result(wanted)
    moved = _with_rows(wanted, family, every, result)
    with TemporaryDirectory(prefix="taskstore-") as scratch:
        files = _tokenizer_files(owner, result, Path(scratch))
        models = []
        for n, model in enumerate((moved.base, *moved.tasks)):
            folder = Path(scratch) / str(n)
            folder.mkdir()
            own = {path: file for path, file in model.assets.items() if path not in _SPEAK}
            own |= _settings(model, every.of(model), result, folder)
            models.append(replace(model, assets={**own, **files}))
        yield replace(moved, base=models[0], tasks=tuple(models[1:]))


class _Vocabularies:
    """The tokenizers of a family's models, each read once; a task without one has the base's."""

    def __init__(self, family: Family) -> None:
        self.base, self.tasks = family.base, {task.name: task for task in family.tasks}
        self._read: dict[str, Vocabulary | None] = {}
        self._rows: dict[str, I64] = {}
        self.found = any(self._own(model) for model in (family.base, *family.tasks))

    def of(self, model: Checkpoint) -> Vocabulary:
        found, base = self._own(model), self._own(self.base)
        if found is None and base is None:
            raise InputError(f"{self.base.name} has no tokenizer, and other models have one")
        if found is not None:
            return found
        assert base is not None
        return replace(base, name=model.name, rows=rows_of(model, self.base))

    def result(self, wanted: Wanted) -> tuple[Checkpoint, Result]:
        """The model whose tokenizer files are taken, and the vocabulary made of them."""
        if wanted.source == UNION:
            models = [self.base, *(self.tasks[n] for n in wanted.order if n in self.tasks)]
            owners = {owner.where: owner for model in models for owner in _owners(model)}
            owner = self.base
            result = union(self.of(owner), [self.of(o) for o in owners.values()])
        else:
            owner = self.base if wanted.source == BASE else self.tasks[wanted.source]
            result = as_it_is(self.of(owner))
        result.multiple = wanted.multiple
        return owner, with_tokens(result, self.of(owner), wanted.tokens)

    def given(
        self, wanted: Wanted, result: Result, order: Sequence[str]
    ) -> dict[int, tuple[int, int, bool]]:
        """Number of a token -> the row that the recipe gives it, of a model's place in `order`.

        Raises InputError for one that its model lacks.
        """
        found = {}
        every = [o for model in (self.base, *self.tasks.values()) for o in _owners(model)]
        owners = {owner.name: owner for owner in every} | {"": self.base}
        for token, one in wanted.tokens.items():
            model, row = ZERO, 0
            if one.model is not None:
                owner, name = owners[one.model], token if one.token is None else one.token
                own = self.of(owner)
                row = name if isinstance(name, int) else own.tokens.get(name, -1)
                if not 0 <= row < own.rows or owner.where not in order:
                    raise InputError(f"token {token!r}: {owner.name} has no row for {name!r}")
                model = order.index(owner.where)
            found[result.ids[token]] = (model, row, one.force)
        return found

    def rows(self, model: Checkpoint, result: Result) -> I64:
        """The row of each token of the result, (V,); -1 where the model lacks it."""
        if model.where not in self._rows:
            tokens, row_V = self.of(model).tokens, np.full(len(result.ids), -1, np.int64)
            for token, number in result.ids.items():
                row_V[number] = tokens.get(token, -1)
            self._rows[model.where] = row_V
        return self._rows[model.where]

    def differs(self, model: Checkpoint, result: Result) -> bool:
        """Whether a model's rows are not the result's."""
        row_V = self.rows(model, result)
        return self.of(model).rows != result.rows or bool((row_V != np.arange(row_V.size)).any())

    def _own(self, model: Checkpoint) -> Vocabulary | None:
        if model.where not in self._read:
            self._read[model.where] = read(model, self.base)
        return self._read[model.where]


def _with_rows(wanted: Wanted, family: Family, every: _Vocabularies, result: Result) -> Family:
    """The family whose tensors of the vocabulary have the result's rows; its files stay."""
    order = [family.base, *(every.tasks[n] for n in wanted.order if n in every.tasks)]
    moved: dict[str, dict[str, Rows]] = {model.name: {} for model in order}
    for name in sorted({name for model in order for name in model.tensors}):
        having = [model for model in order if name in model.tensors]
        parts = [_part(model, name) for model in having]
        forced = any(one.force for one in wanted.tokens.values())
        if not forced and not any(every.differs(part.model, result) for part in parts):
            continue
        if not _by_token(parts, [every.of(part.model).rows for part in parts]):
            continue
        keys = [(part.model.where, part.name) for part in parts]
        first = [keys.index(key) for key in dict.fromkeys(keys)]
        row_MV = np.stack([every.rows(parts[n].model, result) for n in first])
        base = 0 if wanted.has_base and having[0] is family.base else None
        from_V = instead(row_MV, base)
        distinct = [parts[n] for n in first]
        given = every.given(wanted, result, [part.model.where for part in distinct])
        for model, key in zip(having, keys, strict=True):
            own = list(dict.fromkeys(keys)).index(key)
            ways = taken(row_MV, own, from_V, given)
            fill = result.rows - row_MV.shape[1]
            moved[model.name][name] = Rows(distinct, row_MV, own, *ways, fill)
    views = {
        model.name: replace(
            model,
            reader=RowsReader(model.reader, moved[model.name]),
            notes=(*model.notes, *_notes(every.of(model), result)),
        )
        for model in order
    }
    return replace(
        family,
        base=views[family.base.name],
        tasks=tuple(views[task.name] for task in family.tasks),
        again=(_again, (wanted, family)),
    )


def _again(wanted: Wanted, family: Family) -> Family:
    """The same in another process, which needs no files."""
    every = _Vocabularies(family)
    return _with_rows(wanted, family, every, every.result(wanted)[1])


def _owners(model: Checkpoint) -> Iterator[Checkpoint]:
    """The model, and those that its layers are from."""
    yield model
    if isinstance(model.reader, PartsReader):
        yield from (owner for owner, _ in model.reader.parts.values())


def _part(model: Checkpoint, name: str) -> Part:
    if isinstance(model.reader, PartsReader):
        return Part(*model.reader.parts[name])
    return Part(model, name)


def _by_token(parts: Sequence[Part], rows: Sequence[int]) -> bool:
    """Whether a tensor has a row per token; `rows` are those of each model's config."""
    name, shape = parts[0].name, parts[0].info.shape
    if not _NAMES.search(name) or shape[:1] != (rows[0],):
        if NUMBER.match(name) is None and rows[0] in shape:
            raise InputError(
                f"{name} of {parts[0].model.name}, {list(shape)}, may have a row per token, and is "
                "not known as an embedding or head; leave tokenizer_source out"
            )
        return False
    for part, count in zip(parts, rows, strict=True):
        if part.info.shape[:1] != (count,) or part.info.dtype not in MASKED:
            raise InputError(
                f"{name} of {part.model.name} is {part.info.dtype} {list(part.info.shape)}, not "
                f"floats with a row for each of the {count} tokens of its config"
            )
    return True


def _notes(own: Vocabulary, result: Result) -> list[str]:
    both = len(own.tokens.keys() & result.ids.keys())
    found = list(result.notes)
    if lacking := len(result.ids) - both:
        found.append(f"{lacking} tokens that it lacks take the rows of others")
    if left := len(own.tokens) - both:
        found.append(f"{left} of its tokens are not in the merged tokenizer; their rows are left")
    return found


def _tokenizer_files(owner: Checkpoint, result: Result, folder: Path) -> dict[str, Path]:
    """The files that speak of tokens; a changed tokenizer is that of tokenizer.json alone."""
    files = {path: file for path, file in owner.assets.items() if path in _SPEAK}
    if result.file is None:
        return files
    files = {path: file for path, file in files.items() if path not in VOCABULARY}
    files[TOKENIZER] = folder / TOKENIZER
    text = json.dumps(result.file, ensure_ascii=False)
    files[TOKENIZER].write_text(text, encoding="utf-8")
    config = TOKENS[0]
    settings = read_settings(files[config]) if config in files else {}
    if "added_tokens_decoder" in settings:
        settings["added_tokens_decoder"] = {
            str(one["id"]): {key: value for key, value in one.items() if key != "id"}
            for one in result.file["added_tokens"]
        }
        files[config] = folder / config
        write_settings(files[config], settings)
    return files


def _settings(model: Checkpoint, own: Vocabulary, result: Result, folder: Path) -> dict[str, Path]:
    """The model's config files with the result's numbers of tokens, and their count."""
    token_of = {number: token for token, number in own.ids.items()}

    def number(old: Any) -> Any:
        if isinstance(old, list):
            return [new for one in old if (new := number(one)) is not None]
        if type(old) is not int or old not in token_of:
            return old
        return result.ids.get(token_of[old])

    def changed(settings: Mapping[str, Any]) -> dict[str, Any]:
        return {key: value_of(key, value) for key, value in settings.items()}

    def value_of(key: str, value: Any) -> Any:
        if isinstance(value, dict):
            return changed(value)
        if key == "vocab_size" and value == own.rows:
            return result.rows
        return number(value) if key.endswith("_token_id") else value

    files = {}
    for path in (CONFIG, GENERATION):
        if path in model.assets:
            before = read_settings(model.assets[path])
            if (after := changed(before)) != before:
                files[path] = folder / path
                write_settings(files[path], after)
    return files
