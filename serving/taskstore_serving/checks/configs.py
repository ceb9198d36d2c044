"""Refuses a task whose config computes something else than the base's: an engine has one config.

Configs are compared as transformers completes them, since a file leaves out defaults, and which
depends on the version that wrote it. A setting that the model's class does not have counts where
vLLM reads it (`reads`): trainers leave notes. Of the others, settings that say how a model was
trained, saved or is to be sampled from do not count; nor do token ids, names of labels, the longest
input, and how weights were once quantised: those of a store are what they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from taskstore.errors import SwapError
from taskstore.locations.scratch import scratch
from taskstore.models.config import CONFIG, read_settings
from taskstore.store import Store
from taskstore_serving.checks.reads import completed, counts

_LISTED = """
    _name_or_path name_or_path transformers_version torch_dtype dtype architectures auto_map
    _commit_hash use_cache return_dict output_attentions output_hidden_states output_router_logits
    id2label label2id problem_type finetuning_task task_specific_params tokenizer_class prefix
    initializer_range initializer_factor gradient_checkpointing pretraining_tp classifier_dropout
    router_aux_loss_coef router_jitter_noise chunk_size_feed_forward max_position_embeddings
    max_window_layers do_sample temperature top_k top_p max_length min_length num_beams
    repetition_penalty length_penalty no_repeat_ngram_size early_stopping quantization_config
"""
_NOTES = frozenset(_LISTED.split())
_ENDINGS = ("_token_id", "_token_ids", "dropout", "_pdrop", "_attn_implementation")


def check_config(task: str, own: Mapping[str, Any], base: Mapping[str, Any]) -> None:
    """Raise SwapError, with the setting's name, where two configs compute differently."""
    for name, mine, theirs in differing(own, base):
        if not (mine or theirs) or not counts(name.rpartition(".")[2], base):
            continue
        raise SwapError(
            f"task {task!r} cannot be served with the others: its config says {name}={mine!r}, "
            f"the base's {theirs!r}; leave it out"
        )


def check_written(store: Store, task: str) -> None:
    """Check both files before vLLM is loaded; of what no class completes, what both give.

    Raises SwapError.
    """
    own_file = store.manifest.tasks[task].assets.get(CONFIG)
    if own_file is not None and own_file == store.manifest.base.assets.get(CONFIG):
        return  # one file, as nearly always: nothing to write out and read
    with scratch(store.path, small=True) as folder:
        own, base = (_written(store, t, folder / str(t is None)) for t in (task, None))
    if not any(differing(own, base)):
        return
    whole = completed(own), completed(base)
    if whole[0] and whole[1]:
        check_config(task, whole[0], whole[1])
    else:
        check_config(task, _common(own, base), _common(base, own))


def _common(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of one config that the other gives too."""
    found = {}
    for name in one.keys() & other.keys():
        mine, theirs = one[name], other[name]
        both = isinstance(mine, Mapping) and isinstance(theirs, Mapping)
        found[name] = _common(mine, theirs) if both else mine
    return found


def _written(store: Store, task: str | None, folder: Path) -> dict[str, Any]:
    return read_settings(store.write_assets(task, folder) / CONFIG)


def differing(own: Mapping[str, Any], base: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Settings with which a model computes something else: name, own, the base's."""
    for name in sorted({*own, *base}):
        if name in _NOTES or name.endswith(_ENDINGS):
            continue
        mine, theirs = own.get(name), base.get(name)
        if isinstance(mine, Mapping) and isinstance(theirs, Mapping):
            yield from ((f"{name}.{n}", a, b) for n, a, b in differing(mine, theirs))
        elif mine != theirs:
            yield name, mine, theirs


def completed_config(folder: Path, model_config: Any) -> dict[str, Any]:
    """A folder's config with every default; empty where the folder has none."""
    from vllm.transformers_utils.config import get_config

    if not (folder / CONFIG).exists():
        return {}
    found: dict[str, Any] = get_config(
        str(folder), model_config.trust_remote_code, config_format=model_config.config_format
    ).to_dict()
    return found
