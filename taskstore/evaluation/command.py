"""Score a model folder by the user's own command, or by a function.

    python eval.py {model} {task} --split val

The command runs without a shell. It is split into words before placeholders are filled in. Its
score is in the last line of its standard output that holds one: a JSON object with "score" (or the
key that is asked for), a bare number, or lm-eval's results, of which the mean over tasks is taken.
A member "n" of the object is the number of examples.
A command that fails, prints no score or takes too long raises an error that shows the end of its
output.
"""

from __future__ import annotations

import errno
import json
import math
import os
import re
import shlex
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from taskstore.errors import EvaluationFailed, OptionError
from taskstore.locations import dry
from taskstore.locations.files import read_regular
from taskstore.locations.scratch import scratch

Evaluator = Callable[[Path, str], float]  # model folder, task -> score
MAX_SCORES = 64 << 20
MAX_EXAMPLES = 1 << 53
METRICS = ("acc_norm", "acc", "exact_match", "f1", "mc2", "pass@1", "bleu", "rouge1")


class Measured(float):
    """A score of which the number of examples is known."""

    n: int

    @classmethod
    def over(cls, score: float, n: object) -> float:
        """Return the score, with its number of examples where `n` is one."""
        if isinstance(n, bool) or not isinstance(n, int) or not 0 < n <= MAX_EXAMPLES:
            return float(score)
        found = cls(score)
        found.n = n
        return found


@dataclass(frozen=True)
class Command:
    """An Evaluator that runs a command.

    template   words with {model} and, if one command serves several tasks, {task}. {out} is an
               empty folder, whose *.json files may hold the score too (lm-eval's --output_path).
               {limit} is the number of examples, where a search says one
    key        member of the JSON object that is the score
    timeout    seconds that one run may take
    """

    template: str
    key: str = "score"
    timeout: float = 3600.0

    def __post_init__(self) -> None:
        try:
            words = shlex.split(self.template)
        except ValueError as error:
            raise OptionError(f"{self.template!r} is no command line: {error}") from None
        if not any("{model}" in word for word in words):
            raise OptionError(f"the command {self.template!r} does not say where {{model}} goes")
        if not 0 < self.timeout < math.inf:
            raise OptionError(f"time limit {self.timeout} is not a positive number of seconds")

    @property
    def label(self) -> str:
        """What stands for it in a journal."""
        return f"{self.template} {self.key}"

    @property
    def takes_limit(self) -> bool:
        return "{limit}" in self.template

    def __call__(self, model: Path, task: str, limit: int | None = None) -> float:
        """The score of a model folder on a task, over `limit` examples; raises EvaluationFailed."""
        with scratch(model, small=True) if "{out}" in self.template else nullcontext() as out:
            places = {"model": str(model), "task": task, "out": str(out)}
            places |= {} if limit is None else {"limit": str(limit)}
            words = [_filled(word, places) for word in shlex.split(self.template)]
            stdout, stderr = self._run(words, task)
            files = [*map(_text, sorted(out.rglob("*.json")))] if out else []
        found = [_score(text, self.key) for text in (*stdout.splitlines(), stdout, *files)]
        scores = [score for score in found if score is not None]
        if not scores:
            raise EvaluationFailed(task, f"printed no {self.key!r}", stdout + stderr)
        if not math.isfinite(scores[-1]):
            raise EvaluationFailed(task, f"gave the score {scores[-1]}", stdout + stderr)
        return scores[-1]

    def _run(self, words: Sequence[str], task: str) -> tuple[str, str]:
        """Its standard output and error; it is killed, with its children, if it takes too long."""
        try:
            process = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
                start_new_session=True,
            )
        except OSError as error:
            raise EvaluationFailed(task, f"cannot be run: {_why(words[0], error)}", "") from None
        try:
            stdout, stderr = process.communicate(timeout=self.timeout)
        except BaseException as error:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            stdout, stderr = process.communicate()
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            took = f"took longer than {self.timeout:g} s and was stopped"
            raise EvaluationFailed(task, took, stdout + stderr) from None
        if process.returncode:
            raise EvaluationFailed(task, f"ended with status {process.returncode}", stdout + stderr)
        return stdout, stderr


def _why(program: str, error: OSError) -> str:
    """Say why a program does not start, and the way out."""
    if isinstance(error, FileNotFoundError):
        return f"there is no program {program!r} here; give its path, or install it"
    if isinstance(error, PermissionError) or error.errno == errno.ENOEXEC:
        return f"{program!r} is no program; put one before it, as in `python {program}`"
    return error.strerror or str(error)


def _text(path: Path) -> str:
    """What a file says; nothing where it is none that can be read, or is too large for scores."""
    try:
        return read_regular(path, MAX_SCORES).decode(errors="replace")
    except OSError:
        return ""


def _filled(word: str, places: Mapping[str, str]) -> str:
    """The word with its placeholders filled in, in one pass: a value may look like one."""
    return re.sub(r"\{(model|task|out|limit)\}", lambda found: places.get(found[1], found[0]), word)


def _score(text: str, key: str) -> float | None:
    """The score in a piece of text; None if there is none."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    n = None
    if isinstance(found, dict):
        if isinstance(found.get("results"), dict):
            return of_lm_eval(found, key)
        n, found = found.get("n"), found.get(key)
    return Measured.over(_float(found), n) if _is_number(found) else None


def of_lm_eval(found: Mapping[str, Any], key: str) -> float | None:
    """The mean over the tasks in lm-eval's results of `key`, or of the first of METRICS there is.

    Its number of examples is the sum over the tasks.
    """
    scores = []
    for task in found["results"].values():
        values = {
            name.partition(",")[0]: value
            for name, value in (task.items() if isinstance(task, dict) else ())
            if _is_number(value)
        }
        metric = next((name for name in (key, *METRICS) if name in values), None)
        if metric is not None:
            scores.append(_float(values[metric]))
    if not scores:
        return None
    counts = found.get("n-samples")
    known = [c.get("effective") for c in counts.values()] if isinstance(counts, dict) else []
    n = sum(c for c in known if isinstance(c, int))
    return Measured.over(sum(scores) / len(scores), n)


def _float(number: float) -> float:
    """The number as a float: infinite where it is an integer too large for one."""
    try:
        return float(number)
    except OverflowError:
        return math.inf


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def checked(evaluator: Evaluator, model: Path, task: str) -> float:
    """The score of a function or command, a finite number; raises EvaluationFailed."""
    dry.stop()
    return finite(evaluator(model, task), task)


def finite(score: Any, task: str) -> float:
    """A score that is a finite number, as a float; raises EvaluationFailed for any other."""
    if not _is_number(score) or not math.isfinite(_float(score)):
        raise EvaluationFailed(task, f"gave {score!r:.99}, which is no finite number", "")
    return Measured.over(score, getattr(score, "n", None))
