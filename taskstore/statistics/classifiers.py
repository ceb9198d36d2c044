"""Encodes examples for classifiers of text and of images; the loss is minus log p of the class.

    {"text": ..., "label": ...}      also "text_pair"; the tokenizer cuts what is too long
    {"image": [[...]], "label": ...} pixels from 0 to 255, (H, W) or (H, W, C), of the model's size

A label is the number of a class, or its name in the model's config. It may be missing where no
statistic needs it. Pixels are scaled and normalised as preprocessor_config.json says.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from taskstore.errors import InputError
from taskstore.format import json_text
from taskstore.statistics.examples import Encoder, Example
from taskstore.statistics.records import Record

PREPROCESSOR = "preprocessor_config.json"


class Classifier(Encoder):
    """What both have in common."""

    loss = "minus log p of the class"
    classes = True

    def __init__(self, label: str, config: Any) -> None:
        kind = config.problem_type
        if config.num_labels < 2 or kind not in (None, "single_label_classification"):
            raise InputError(
                f"{label} does not choose one of several classes; measure cannot use it"
            )
        self._classes = int(config.num_labels)
        self._names = {str(name): int(i) for name, i in (config.label2id or {}).items()}

    def logits(self, module: Any, example: Example) -> Tensor:
        return self.run(module, example.inputs)

    def _label(self, record: Record, needed: bool) -> Tensor | None:
        label = record.value.get("label")
        if label is None and not needed:
            return None
        found = self._names.get(label) if isinstance(label, str) else label
        if type(found) is not int or not 0 <= found < self._classes:
            raise record.fail(
                f"'label' is {json.dumps(label)[:40]}, which is no class from 0 to "
                f"{self._classes - 1} and no name of one"
            )
        return torch.tensor([found])


class Text(Classifier):
    def __init__(self, label: str, config: Any, tokenizer: Any, max_length: int) -> None:
        super().__init__(label, config)
        self._tokenizer, self._max_length = tokenizer, max_length
        self._pads = config.get_text_config().pad_token_id is not None

    def batch(self, wanted: int) -> int:
        """One where a decoder would look for padding and has no token for it."""
        return wanted if self._pads else 1

    def encode(self, record: Record, needs_label: bool) -> Example:
        texts = [record.text("text")]
        if "text_pair" in record.value:
            texts.append(record.text("text_pair"))
        whole = self._tokenizer(*texts, verbose=False)["input_ids"]
        inputs = self._tokenizer(
            *texts, truncation=True, max_length=self._max_length, return_tensors="pt"
        )
        if not inputs["input_ids"].numel():
            raise record.fail("'text' has no tokens")
        label = self._label(record, needs_label)
        return Example(dict(inputs), 1, label, len(whole) > inputs["input_ids"].shape[1])


class Image(Classifier):
    def __init__(self, label: str, config: Any, folder: Path) -> None:
        super().__init__(label, config)
        try:
            how = json_text.read(folder / PREPROCESSOR, folder)
            scale = how.get("rescale_factor", 1 / 255) if how.get("do_rescale", True) else 1.0
            normal = how.get("do_normalize", True)
            mean, std = (how["image_mean"], how["image_std"]) if normal else ([0.0], [1.0])
            self._scale = float(scale)
            self._mean, self._std = (
                torch.tensor(v, dtype=torch.float32).view(-1, 1, 1) for v in (mean, std)
            )
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RuntimeError):
            raise InputError(
                f"{label} has no {PREPROCESSOR} that says how to scale and normalise pixels"
            ) from None
        self._channels = int(config.num_channels)
        size = config.image_size
        self._size = (size, size) if isinstance(size, int) else tuple(size)

    def encode(self, record: Record, needs_label: bool) -> Example:
        try:
            pixels = torch.tensor(record.value["image"], dtype=torch.float32)
        except (KeyError, ValueError, TypeError, RuntimeError):
            raise record.fail("'image' is not there, or is no nested list of pixels") from None
        if pixels.dim() == 2:
            pixels = pixels[..., None]
        wanted = (*self._size, self._channels)
        if pixels.shape != wanted:
            raise record.fail(f"'image' is {list(pixels.shape)} where the model takes {wanted}")
        if not (pixels.min() >= 0 and pixels.max() <= 255):
            raise record.fail("'image' holds pixels that are not from 0 to 255")
        values = (pixels.permute(2, 0, 1) * self._scale - self._mean) / self._std
        return Example({"pixel_values": values[None]}, 1, self._label(record, needs_label))
