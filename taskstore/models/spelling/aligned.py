"""Find a fine-tune's tensors under the names of its base, by rules that are said.

Only names that one of both lacks are looked at, and a rule counts only where the weights that it
brings together are alike. What a fine-tune calls its tensors itself is kept, so that it is written
under its own names again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from taskstore.format.manifest import SavedAs
from taskstore.models.checkpoint import Checkpoint, TensorInfo
from taskstore.models.config import language_config, read_config
from taskstore.models.likeness import LEAST, cosine
from taskstore.models.spelling import experts, library, prefixes
from taskstore.models.spelling.view import SpelledReader, padded

SAMPLED = 8  # matrices of which a rule's likeness is taken
IN, OUT = ("embed_tokens", "wte", "word_embeddings", "tok_embeddings", "shared"), ("lm_head",)


@dataclass
class _Found:
    """What rules have matched so far; `rules` and `failed` in words."""

    saved: dict[str, SavedAs] = field(default_factory=dict)
    infos: dict[str, TensorInfo] = field(default_factory=dict)
    rules: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)


def aligned(base: Checkpoint, task: Checkpoint) -> Checkpoint:
    """Return the fine-tune with the base's names for its tensors, where rules find them.

    `names` says how its own tensors are made of those, `spelling` by which rules, and which failed.
    """
    found, tried = _Found(), set[str]()
    for rule in (_wrappers, _library, *[_start] * 4, _experts, _tie):
        lost, spare = _left(base, task, found)
        if not lost or not spare:
            break
        saved, infos, words = rule(base, task, lost, spare)
        if not saved or words in tried:
            continue  # the names that are left say nothing new
        tried.add(words)
        alike = cosine(
            base,
            replace(task, reader=SpelledReader(task.reader, infos, saved)),
            [(name, name) for name in infos],
            SAMPLED,
        )
        if alike is None and "read as" in words:
            continue  # other words at the start, and no matrix to compare
        if alike is not None and alike < LEAST:
            found.failed.append(f"{words}: the weights are not alike (cosine {alike:.2f})")
        else:
            found.saved |= saved
            found.infos |= infos
            found.rules.append(words)
    if not found.saved:
        return padded(base, replace(task, failed=tuple(found.failed)) if found.failed else task)
    reader = SpelledReader(task.reader, found.infos, found.saved)
    said = f"{'; '.join(found.rules)} to match the base"
    failed = tuple(found.failed)
    named = replace(task, reader=reader, names=found.saved, spelling=said, failed=failed)
    return padded(base, named)


Infos = Mapping[str, TensorInfo]
Matched = tuple[dict[str, SavedAs], dict[str, TensorInfo], str]
Rule = Callable[[Checkpoint, Checkpoint, Infos, Infos], Matched]


def _left(base: Checkpoint, task: Checkpoint, found: _Found) -> tuple[Infos, Infos]:
    """Return the base's tensors that the fine-tune lacks, and its own that the base lacks."""
    lost = {
        name: info
        for name, info in base.tensors.items()
        if name not in task.tensors and name not in found.infos
    }
    spare = {
        name: info
        for name, info in task.tensors.items()
        if name not in base.tensors and name not in found.saved
    }
    return lost, spare


def _fits(lost: Infos, spare: Infos) -> prefixes.Fits:
    def fits(theirs: str, own: str) -> bool:
        """Tell whether shapes agree, but for the rows of a vocabulary."""
        one, two = lost[theirs].shape, spare[own].shape
        return one == two or (len(one) == len(two) > 1 and one[1:] == two[1:])

    return fits


def _renamed(found: Mapping[str, str], spare: Infos, words: str) -> Matched:
    saved = {own: SavedAs(of=[theirs]) for theirs, own in found.items()}
    return saved, {theirs: spare[own] for theirs, own in found.items()}, words


def _wrappers(base: Checkpoint, task: Checkpoint, lost: Infos, spare: Infos) -> Matched:
    found, words = prefixes.by_wrappers(lost, spare, _fits(lost, spare))
    return _renamed(found, spare, ", ".join(words))


def _start(base: Checkpoint, task: Checkpoint, lost: Infos, spare: Infos) -> Matched:
    found, words = prefixes.by_start(lost, spare, _fits(lost, spare))
    return _renamed(found, spare, words)


def _library(base: Checkpoint, task: Checkpoint, lost: Infos, spare: Infos) -> Matched:
    config = {**read_config(base), **read_config(task)}
    if not config.get("model_type"):
        return {}, {}, ""
    theirs = {name: name for name in lost} | library.converted(lost, config)
    ours = {name: name for name in spare} | library.converted(spare, config)
    by_name, fits = {new: old for old, new in ours.items()}, _fits(lost, spare)
    found = {
        name: by_name[new]
        for name, new in theirs.items()
        if new in by_name and fits(name, by_name[new])
    }
    if len(set(found.values())) < len(found):
        return {}, {}, ""
    return _renamed(found, spare, f"old names of {config['model_type']} read as transformers does")


def _experts(base: Checkpoint, task: Checkpoint, lost: Infos, spare: Infos) -> Matched:
    return experts.by_experts(lost, spare)


def _tie(base: Checkpoint, task: Checkpoint, lost: Infos, spare: Infos) -> Matched:
    """Match a tied matrix that one model saved as its input, the other as its output."""
    if not any(language_config(model).get("tie_word_embeddings", True) for model in (base, task)):
        return {}, {}, ""
    for one, two in ((IN, OUT), (OUT, IN)):
        theirs = [n for n in lost if n.endswith(tuple(f"{w}.weight" for w in one))]
        ours = [n for n in spare if n.endswith(tuple(f"{w}.weight" for w in two))]
        if len(theirs) == len(ours) == 1 and _fits(lost, spare)(theirs[0], ours[0]):
            words = f"the tied `{ours[0]}` read as `{theirs[0]}`"
            return _renamed({theirs[0]: ours[0]}, spare, words)
    return {}, {}, ""
