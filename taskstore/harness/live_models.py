"""Score the models of a store as states of one live transformers model.

The model is loaded once and swapped in place from one task to the next, bit for bit, so T scores
cost one load and T swaps. A task that does not fit the live model (another head, another class, a
config that computes something else) is loaded on its own, and so is every original.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from taskstore import devices, extras
from taskstore.errors import ApproximationWarning, InputError, SwapError
from taskstore.evaluation.bench import Scorer
from taskstore.evaluation.command import finite
from taskstore.executors import threads
from taskstore.locations import dry
from taskstore.locations.scratch import scratch
from taskstore.models import live, untrusted_config
from taskstore.models.config import differing
from taskstore.store import Store
from taskstore.store.catalog import label_of
from taskstore.swap import Attached, SwapOptions, attach
from taskstore.swap.job import bound

Function = Callable[[Any, Any, str], float]  # transformers model, its tokenizer, task -> score
State = str | None
_TOKENIZERS = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json")
_FREE = ("id2label", "label2id", "problem_type", "max_position_embeddings")  # compute nothing
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Beside:
    """What a model has beside its weights; `tokenizer` None where it has none."""

    cls: Any
    config: Any
    generation: Any
    tokenizer: Any

    def computes_as(self, other: Beside) -> bool:
        """Tell whether the same weights would give the same outputs under both configs."""
        mine, theirs = self.config.to_dict(), other.config.to_dict()
        return self.cls is other.cls and not any(differing(mine, theirs))

    def set_on(self, model: Any) -> None:
        """Give a live model the settings of this one that its modules do not read."""
        if self.generation is not None:
            model.generation_config = deepcopy(self.generation)
        names = [name for name in self.config.to_dict() if name.endswith("_token_id")]
        for name in (*names, *_FREE):
            if hasattr(self.config, name) and hasattr(model.config, name):
                setattr(model.config, name, getattr(self.config, name))


class LiveModels(Scorer):
    """Scores with a function of a live model, its tokenizer and a task.

    `tasks` are those that may be asked for (None: all of a store); only they are attached. `device`
    None is a GPU where there is one. `loads` counts the models that were loaded. The function runs
    without gradients, and must leave the weights as they are.
    """

    def __init__(
        self,
        function: Function,
        tasks: Sequence[str] | None = None,
        *,
        device: devices.Device | None = None,
        jobs: int | None = None,
    ) -> None:
        extras.need("scoring a live model", "transformers", "torch")
        usual = "cuda" if torch.cuda.is_available() else "cpu"
        self._function, self._tasks, self._jobs = function, tasks, jobs
        self._device = devices.resolve(device or usual)
        self._model: Any = None
        self._own: Beside | None = None  # what the model was built by
        self._family: Attached | None = None
        self._now: tuple[Store, State, str | None] | None = None  # what the model was loaded as
        self._known: dict[tuple[Path, State], Beside] = {}
        self.loads = 0

    def rebuilt(self, store: Store, model: str | None, task: str, tier: str | None) -> float:
        dry.stop()
        best = store.tiers(model)[-1:] if model is not None else []
        wanted = tier or (best[0] if best else None)
        self._make_live(store, model, wanted)
        beside = self._beside(store, model)
        beside.set_on(self._model)
        if self._family is None:
            return self._scored(self._model, beside.tokenizer, task)
        with self._family.using(model):
            return self._scored(self._model, beside.tokenizer, task)

    def original(self, folder: Path, task: str) -> float:
        dry.stop()
        self.close()
        label = f"the original of task {task!r}"
        beside = _beside(folder, label, f"score {folder} with a command")
        with untrusted_config.offline():
            try:
                model = beside.cls.from_pretrained(folder, dtype="auto").to(self._device).eval()
            except Exception as error:  # whatever a folder leads to
                said = live.one_line(error)
                raise InputError(f"transformers cannot load {label}: {said}") from error
        self.loads += 1
        beside.set_on(model)
        return self._scored(model, beside.tokenizer, task)

    def close(self) -> None:
        """Let go of the live model."""
        if self._family is not None:
            self._family.close()
        self._model = self._family = self._now = self._own = None

    def _scored(self, model: Any, tokenizer: Any, task: str) -> float:
        with torch.no_grad():
            return finite(self._function(model, tokenizer, task), task)

    def _make_live(self, store: Store, state: State, tier: str | None) -> None:
        """Have a model that holds a state at a tier, or that a swap brings to it."""
        if self._now is not None and self._now[0] is store and self._own is not None:
            alike = self._own.computes_as(self._beside(store, state))
            if self._family is None:
                if self._now[1:] == (state, tier):
                    return
            elif alike and self._family.holds(state) and (state is None or self._now[2] == tier):
                return
            elif alike and state is not None and self._family.holds(None):
                self._family.swap(None)  # the base is a state at every tier
                self._family.close()
                self._attach(store, state, tier)
                if self._family is not None:
                    return
        self.close()
        self._load(store, state, tier)
        self._attach(store, state, tier)

    def _load(self, store: Store, state: State, tier: str | None) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ApproximationWarning)  # a score says more
            self._model = store.load_model(
                state, tier=tier, device=self._device, dtype="stored", jobs=self._jobs
            ).eval()
        self._own = self._beside(store, state)
        self.loads += 1

    def _attach(self, store: Store, state: State, tier: str | None) -> None:
        """Attach all tasks that the live model can hold; none where it cannot hold `state`."""
        chosen = store.tasks if self._tasks is None else self._tasks
        fitting = [
            task
            for task in chosen
            if (tier is None or tier in store.tiers(task)) and self._fits(store, task, tier)
        ]
        self._now, self._family = (store, state, tier), None
        if not fitting or state not in (None, *fitting):
            _log.info("%s is loaded alone: no swap leads from it to others", label_of(state))
            return
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ApproximationWarning)
            self._family = attach(self._model, store, fitting, tier=tier, jobs=self._jobs)

    def _fits(self, store: Store, task: str, tier: str | None) -> bool:
        """Tell whether the live model can become a task's, in weights and in what it computes."""
        if self._own is None or not self._own.computes_as(self._beside(store, task)):
            return False
        try:
            bound(self._model, store, [task], SwapOptions(tier=tier), threads(self._jobs))
        except SwapError as error:
            _log.info("%s", error)
            return False
        return True

    def _beside(self, store: Store, state: State) -> Beside:
        if (store.path, state) not in self._known:
            with scratch(store.path, small=True) as written:
                folder = store.write_assets(state, written)
                self._known[store.path, state] = _beside(
                    folder, label_of(state), "use evaluator=COMMAND"
                )
        return self._known[store.path, state]


def _beside(folder: Path, label: str, way_out: str) -> Beside:
    """Read what lies beside a model's weights; raises InputError where no class can be built."""
    from transformers import GenerationConfig

    cls, config = live.model_class(folder, label, way_out)
    generation = None
    if (folder / "generation_config.json").exists():
        generation = GenerationConfig.from_pretrained(folder)
    elif hasattr(cls, "generate"):
        generation = GenerationConfig.from_model_config(config)
    tokenizer = None
    if any((folder / name).exists() for name in _TOKENIZERS):
        tokenizer = live.tokenizer(folder, label, label, {})
    return Beside(cls, config, generation, tokenizer)
