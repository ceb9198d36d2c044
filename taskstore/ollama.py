"""Write a task for Ollama: its model folder, a Modelfile beside it, and the lines to type.

Ollama runs GGUF files, which llama.cpp's converter makes of a model folder. What the converter does
not carry over goes into the Modelfile: where an answer ends, and how it is sampled.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from taskstore.format import json_text
from taskstore.format.fidelity import Fidelity
from taskstore.format.names import folder_of, plain
from taskstore.locations import ownership, publish
from taskstore.locations.base import PathLike
from taskstore.progress import Callback, silent
from taskstore.public import public
from taskstore.store.store import Store, opened
from taskstore.version import __version__

MODELFILE = "Modelfile"
OUT_TYPES = {"bfloat16": "bf16", "float16": "f16", "float32": "f32"}  # of the converter, by dtype
PARAMETERS = {  # of a generation_config.json -> of a Modelfile
    "temperature": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "repetition_penalty": "repeat_penalty",
}
MAX_STOPS, LONGEST_STOP = 16, 100
TEMPLATES = ("chat_template.jinja", "tokenizer_config.json")


@dataclass(frozen=True)
class Exported:
    """What was written, the lines to type in its folder, and what to look at before it is used."""

    path: Path
    model: Path
    modelfile: Path
    lines: list[str]
    caveats: list[str]
    fidelity: Fidelity

    def to_dict(self) -> dict[str, Any]:
        return {k: str(v) if isinstance(v, Path) else v for k, v in asdict(self).items()}


@public
def export_ollama(
    store: Store | PathLike,
    task: str,
    target: PathLike,
    *,
    tier: str | None = None,
    overwrite: bool = False,
    jobs: int | None = None,
    progress: Callback = silent,
) -> Exported:
    """Write a task's folder and a Modelfile to the folder `target`, which appears when it is whole.

    `tier` None is the best that the task has. Raises as `unpack` does.

    >>> found = taskstore.export_ollama("numerals", "roman", "for-ollama")
    >>> print("\\n".join(found.lines))
    python convert_hf_to_gguf.py roman --outfile roman.gguf --outtype bf16
    ollama create roman -f Modelfile
    """
    found, target = opened(store), Path(target)
    found.check_tier(task, tier)
    folder, name = folder_of(task), _ollama_name(task)
    publish.check_target(target.absolute(), overwrite=overwrite, foreign=ownership.not_noted)
    with publish.folder(target, overwrite=overwrite, foreign=ownership.not_noted) as partial:
        model = found.unpack(task, partial / folder, tier=tier, jobs=jobs, progress=progress)
        out = OUT_TYPES.get(str(_settings(model / "config.json").get("dtype")), "auto")
        gguf = f"{folder}.gguf"
        convert = ["convert_hf_to_gguf.py", folder, "--outfile", gguf, "--outtype", out]
        lines = [f"python {shlex.join(convert)}", f"ollama create {name} -f {MODELFILE}"]
        caveats, kept = _caveats(model, folder, name), found.fidelity(task, tier)
        about = f"task {plain(task)} of {plain(found.path.name)}: {kept.words}"
        head = [f"# {about}; written by taskstore {__version__}.", "# In this folder:"]
        head += [f"#   {line}" for line in lines] + [f"# {line}" for line in caveats]
        text = [*head, f"FROM ./{gguf}", *_parameters(model)]
        (partial / MODELFILE).write_text("\n".join(text) + "\n", encoding="utf-8")
        ownership.write_note(partial)
    return Exported(target, target / folder, target / MODELFILE, lines, caveats, kept)


def _ollama_name(task: str) -> str:
    """A name that Ollama takes: small letters, digits, and a few signs."""
    return re.sub(r"[^a-z0-9._-]+", "-", task.lower()).strip("-._") or "model"


def _settings(path: Path) -> Mapping[str, Any]:
    """A JSON object in a model folder; empty where there is none."""
    try:
        found = json_text.read(path, path.parent)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _parameters(model: Path) -> Iterator[str]:
    """Yield what a generation config says, as Modelfile has it."""
    generation = _settings(model / "generation_config.json")
    if generation.get("do_sample") is False:
        yield "PARAMETER temperature 0"
    elif generation.get("do_sample"):
        for ours, theirs in PARAMETERS.items():
            value = generation.get(ours)
            if isinstance(value, int | float) and not isinstance(value, bool):
                yield f"PARAMETER {theirs} {value:g}"
    for stop in _stops(model, generation):
        quote = '"""' if '"' in stop else '"'
        yield f"PARAMETER stop {quote}{stop}{quote}"


def _stops(model: Path, generation: Mapping[str, Any]) -> list[str]:
    """The tokens that end an answer, as text; those that no Modelfile can hold are left out."""
    ids = generation.get("eos_token_id", _settings(model / "config.json").get("eos_token_id"))
    wanted = ids if isinstance(ids, list) else [ids]
    added = _settings(model / "tokenizer.json").get("added_tokens")
    listed = [t for t in added if isinstance(t, dict)] if isinstance(added, list) else []
    texts = [t.get("content") for t in listed if t.get("id") in wanted]
    return [
        text
        for text in texts[:MAX_STOPS]
        if isinstance(text, str) and text.isprintable() and 0 < len(text) <= LONGEST_STOP
        if '"""' not in text and not text.endswith('"')
    ]


def _caveats(model: Path, folder: str, name: str) -> list[str]:
    """What gets lost on the way, and how to see it."""
    places = [n for n in TEMPLATES if (model / n).exists()]
    inside = "chat_template" in _settings(model / TEMPLATES[1])
    templates = [n for n in places if n != TEMPLATES[1] or inside]
    if not templates:
        return ["The model has no chat template: prompts reach it as they are typed."]
    return [
        f"The chat template ({folder}/{templates[0]}) is written in Jinja, Ollama's in Go: Ollama "
        "takes one that it knows from the GGUF, else none.",
        f"Compare `ollama show --modelfile {name}` with it, and add a TEMPLATE where they differ: "
        "a wrong one gives worse answers and no error.",
    ]
