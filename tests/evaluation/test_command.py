"""What a user's command may print, and what goes wrong with one."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import pytest

from taskstore.errors import EvaluationFailed, InputError
from taskstore.evaluation.command import Command, checked
from tests.support.evaluators import script


@pytest.mark.parametrize(
    ("output", "score"),
    [
        ("print(0.5)", 0.5),
        ("print('loading'); print(json.dumps({'score': 0.75, 'n': 3})); print('done')", 0.75),
        ("print(json.dumps({'score': 1}))\nprint(json.dumps({'score': 2}))", 2.0),
        ("print(json.dumps({'score': 3}, indent=2))", 3.0),
        (
            "print(json.dumps({'results': {'a': {'alias': 'a', 'acc,x': 0, 'acc_norm,x': 1}}}))",
            1,
        ),
        (
            "print(json.dumps({'results': {'a': {'acc,none': 0.5}, 'b': {'f1,strict': 1}}}))",
            0.75,
        ),
    ],
)
def test_what_a_command_prints(output: str, score: float, tmp_path: Path) -> None:
    assert Command(script(tmp_path, output))(tmp_path, "alpha") == score


def test_the_command_gets_model_task_and_a_folder_for_results(tmp_path: Path) -> None:
    text = """
out = sys.argv[3]
os.makedirs(os.path.join(out, "deep"))
with open(os.path.join(out, "deep", "results.json"), "w") as file:
    json.dump({"results": {task: {"f1,none": len(os.listdir(model))}}}, file)
"""
    model = tmp_path / "a model"
    model.mkdir()
    (model / "x").touch()
    assert Command(script(tmp_path, text) + " {out}")(model, "alpha") == 1


def test_another_key(tmp_path: Path) -> None:
    command = script(tmp_path, "print(json.dumps({'score': 1, 'em': 0.25}))")
    assert Command(command, key="em")(tmp_path, "alpha") == 0.25


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("print('no score'); sys.exit(0)", "printed no 'score'; it wrote: no score"),
        ("print('some'); sys.exit('it broke')", "ended with status 1; it wrote: some it broke"),
        ("print(json.dumps({'score': float('nan')}))", "gave the score nan"),
        ("print('1e999')", "gave the score inf"),
        ("print(10**400)", "gave the score inf"),
        ("print(json.dumps({'score': float('-inf')}))", "gave the score -inf"),
        ("print(json.dumps({'results': {'a': {'acc': 10**400}}}))", "gave the score inf"),
        ("print(json.dumps({'score': True}))", "printed no 'score'"),
        ("print(json.dumps({'results': {}}))", "printed no 'score'"),
        ("os.kill(os.getpid(), 9)", "ended with status -9"),
    ],
)
def test_a_command_that_fails(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(EvaluationFailed) as caught:
        Command(script(tmp_path, text))(tmp_path, "alpha")
    found = " ".join(str(caught.value).split())
    assert found.startswith("the evaluation of task 'alpha' ")
    assert message in found


def test_a_command_that_hangs_is_stopped_with_its_children(tmp_path: Path) -> None:
    text = """
import subprocess
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(child.pid, flush=True)
time.sleep(600)
"""
    said = ""
    for seconds in (1.5, 10.0, 40.0):  # until the program has begun, on a machine that is busy
        stopped = f"took longer than {seconds:g} s and was stopped"
        with pytest.raises(EvaluationFailed, match=stopped) as caught:
            Command(script(tmp_path, text), timeout=seconds)(tmp_path, "alpha")
        said = said or caught.value.output.strip()
        if said:
            break
    child = int(said.split()[0])
    for _ in range(2000):
        if (
            not Path(f"/proc/{child}/cmdline").exists()
            or not Path(f"/proc/{child}/cmdline").read_bytes()
        ):
            return
        time.sleep(0.05)
    pytest.fail("the command's child is still running")


def test_commands_that_make_no_sense(tmp_path: Path) -> None:
    for template, message in (
        ("eval.py", "does not say where {model} goes"),
        ("eval.py '{model}", "is no command line"),
    ):
        with pytest.raises(InputError, match=message):
            Command(template)
    for timeout in (0, -1, float("inf"), float("nan")):
        with pytest.raises(InputError, match="not a positive number"):
            Command("x {model}", timeout=timeout)
    with pytest.raises(EvaluationFailed, match="cannot be run: there is no program '/no/such'"):
        Command("/no/such {model}")(tmp_path, "alpha")
    (script := tmp_path / "eval.py").write_text("print(1)")
    for mode in (0o644, 0o755):  # not executable; and without a line that says by what
        script.chmod(mode)
        with pytest.raises(EvaluationFailed, match=f"is no program; .*`python {script}`"):
            Command(f"{script} {{model}}")(tmp_path, "alpha")
    values: tuple[Any, ...] = (float("inf"), float("nan"), 10**400, "0.5", None, True)
    for bad in values:
        with pytest.raises(EvaluationFailed, match="no finite number"):
            checked(lambda *_, bad=bad: bad, tmp_path, "alpha")


def test_names_are_put_in_after_the_words_are_split(tmp_path: Path) -> None:
    """A path with spaces, quotes and braces is one word, and nothing in it is run."""
    model = tmp_path / "a 'b' $(touch x) {task}"
    model.mkdir()
    program = "import sys, os; print(len(sys.argv) + os.path.isdir(sys.argv[1]))"
    assert Command(f"{sys.executable} -c '{program}' {{model}}")(model, "alpha") == 3
