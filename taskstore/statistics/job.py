"""What travels through `measure`: the model, its encoder, the examples and the options."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from taskstore.errors import InputError
from taskstore.models.live import one_line
from taskstore.models.untrusted_config import offline
from taskstore.statistics.causal import Causal
from taskstore.statistics.classifiers import Image, Text
from taskstore.statistics.examples import Encoder, Example
from taskstore.statistics.measured_model import Subject
from taskstore.statistics.options import MeasureOptions
from taskstore.statistics.records import Data

USUAL_LENGTH = 1024  # tokens


@dataclass(frozen=True)
class MeasureJob:
    """`examples` are the records of `data`, encoded; `max_length` is in tokens, 0 for images."""

    subject: Subject
    encoder: Encoder
    max_length: int
    data: Data
    examples: Sequence[Example]
    options: MeasureOptions


def prepared(subject: Subject, data: Data, options: MeasureOptions) -> MeasureJob:
    """Encode the records for the model; raises BadExample or InputError."""
    encoder, max_length = _encoder_of(subject, options)
    examples = [encoder.encode(record, options.needs_labels) for record in data.records]
    if subject.kind != "image":
        _check_tokens(subject, examples)
    return MeasureJob(subject, encoder, max_length, data, examples, options)


def _check_tokens(subject: Subject, examples: Sequence[Example]) -> None:
    known = subject.module.get_input_embeddings().num_embeddings
    largest = max(int(example.inputs["input_ids"].max()) for example in examples)
    if largest >= known:
        raise InputError(
            f"{subject.label}: its tokenizer gives token {largest}, the embedding has {known}; "
            "they are not of one model"
        )


def _encoder_of(subject: Subject, options: MeasureOptions) -> tuple[Encoder, int]:
    """The encoder of a model, and how many tokens an example may have; raises InputError."""
    if subject.kind == "image":
        return Image(subject.label, subject.config, subject.folder), 0
    tokenizer = _tokenizer(subject)
    length = _length(subject, tokenizer, options)
    if subject.kind == "text":
        return Text(subject.label, subject.config, tokenizer, length), length
    return Causal(subject.module, tokenizer, length), length


def _tokenizer(subject: Subject) -> Any:
    from transformers import AutoTokenizer

    try:
        with offline():
            return AutoTokenizer.from_pretrained(subject.folder, trust_remote_code=False)
    except BaseException as error:  # whatever its files lead to; a panic of Rust is no Exception
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        why = one_line(error)
        raise InputError(f"the tokenizer of {subject.label} cannot be loaded: {why}") from None


def _length(subject: Subject, tokenizer: Any, options: MeasureOptions) -> int:
    text = subject.config.get_text_config()
    limits = (tokenizer.model_max_length, getattr(text, "max_position_embeddings", None))
    most = min((int(limit) for limit in limits if limit and limit > 0), default=1 << 30)
    if options.max_length is not None and options.max_length > most:
        raise InputError(
            f"max-length {options.max_length} is more than the {most} tokens that {subject.label} "
            "can take"
        )
    return options.max_length or min(USUAL_LENGTH, most)
