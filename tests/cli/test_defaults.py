"""Defaults of a family in taskstore.toml or pyproject.toml."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from taskstore_cli.arguments import defaults
from taskstore_cli.main import main

import taskstore
from tests.support.families import Family, contents

SCORE = "import json; print(json.dumps({'score': 0.5, 'loss': 0.25}))"


def run(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


@pytest.fixture
def text(small: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A file for the family, in the folder in which commands run."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "score.py").write_text(SCORE)
    said = f"""
base = "{small.base_path}"
output = "family"
tiers = ["mask", "exact"]
lambda = {{ second = 0.5 }}
jobs = 1

[tasks]
alpha = "{small.paths["alpha"]}"
second = "{small.paths["beta"]}"

[evaluators]
val = "{sys.executable} score.py {{model}} {{task}}"

[evaluators.loss]
command = "{sys.executable} score.py {{model}}"
key = "loss"

[unpack]
exact = true
"""
    (tmp_path / "taskstore.toml").write_text(said)
    return said


def test_pack_without_arguments_repeats_it(text: str, small: Family, tmp_path: Path) -> None:
    done = run("pack")
    assert done.exit_code == 0, done.stderr
    said = done.stderr.splitlines()[0]
    assert said == "from taskstore.toml: BASE, FINETUNES, --output, --tiers, --lambda, --jobs"
    typed = ["--tiers=mask,exact", "--lambda=second=0.5", f"second={small.paths['beta']}"]
    (tmp_path / "taskstore.toml").unlink()
    assert run("pack", small.base_path, small.paths["alpha"], *typed, "-o", "other").exit_code == 0
    assert contents(tmp_path / "family") == contents(tmp_path / "other")


def test_what_is_typed_goes_before_it(text: str, small: Family) -> None:
    done = run("pack", small.base_path, small.paths["gamma"], "-o", "one", "--tiers=mask", "-q",
               "--lambda=0.4")  # fmt: skip
    assert done.exit_code == 0 and "from taskstore.toml" not in done.stderr
    store = taskstore.open("one")
    assert (store.tasks, store.manifest.tasks["gamma"].lam) == (["gamma"], 0.4)
    assert store.tiers("gamma") == ["mask"]
    done = run("pack", "--tiers=nosuch", "--dry-run")
    assert done.exit_code == 2
    assert done.stderr.endswith("; options that are not typed are from taskstore.toml\n")


def test_other_commands_take_the_store_and_an_evaluator(text: str) -> None:
    assert run("pack", "-q").exit_code == 0
    assert json.loads(run("info", "--json").stdout)["store"] == "family"
    assert run("verify", "--deep").exit_code == 0
    done = run("eval", "--json")
    assert [s["rebuilt"] for s in json.loads(done.stdout)["scores"]] == [0.5, 0.5]
    done = run("eval", "family", "alpha", "--eval", "loss")
    assert "from taskstore.toml" not in done.stderr and "alpha, rebuilt: 0.25" in done.stderr
    done = run("eval", "--eval", "loss", "--key", "score", "--json")
    assert [s["rebuilt"] for s in json.loads(done.stdout)["scores"]] == [0.5, 0.5]
    aimed = run("pack", "--target", "0.9", "-o", "aimed", "--tiers=rest", "--json", "--lambda=0.4")
    assert aimed.exit_code == 2 and "lambda does nothing" in aimed.stderr
    found = json.loads(run("tune", "-o", "tuned", "--lambda", "0.3,0.4", "--json").stdout)
    assert found["tasks"]["second"]["scores"] == {"0.3": 0.5, "0.4": 0.5}


def test_tables_of_commands(text: str, tmp_path: Path) -> None:
    assert run("pack", "-q").exit_code == 0
    said = run("unpack", "family", "alpha", "-o", "out")
    assert said.stderr == "from taskstore.toml: --exact, --jobs\n"
    (tmp_path / "taskstore.toml").write_text(
        text + "[retier]\ntiers = ['mask']\noutput = 'small'\n"
    )
    assert run("retier", "-q").exit_code == 0
    assert taskstore.open("small").tiers("alpha") == ["mask"]


def test_help_says_where_a_default_is_from(text: str) -> None:
    said = run("pack", "--help").output
    assert "[default: mask,exact]" in said
    assert said.endswith(
        "\nfrom taskstore.toml: BASE, FINETUNES, --output, --tiers, --lambda, --jobs\n"
    )
    assert "from " not in run("methods", "--help").output


def test_pyproject(text: str, tmp_path: Path) -> None:
    (tmp_path / "taskstore.toml").unlink()
    project = tmp_path / "pyproject.toml"
    project.write_text('[project]\nname = "x"\n\n[tool.taskstore]\noutput = "mine"\n')
    assert "mine is not a taskstore store" in run("info").stderr
    for other in ("[project]\nname = 'x'\n", "[tool.taskstore.x]\n[tool", "taskstore = 1"):
        project.write_text(other)
        done = run("info")
        if other == "[tool.taskstore.x]\n[tool":
            assert (done.exit_code, done.stderr[:30]) == (1, "error: pyproject.toml: it is n")
        else:
            assert "missing argument 'STORE'" in done.stderr


@pytest.mark.parametrize(
    ("said", "status", "why"),
    [
        ("bse = 'x'", 2, "has no key 'bse'; it knows base, base-mode, density"),
        ("[serve]\nprt = 1", 2, "has no option 'prt' in [serve]; it has api-key, base-from"),
        ("[remove]\nyes = true", 2, "has no option 'yes' in [remove]"),
        ("overwrite = true", 2, "has no key 'overwrite'"),
        ("alpha = 1", 2, "has no key 'alpha'"),
        ("base = ['x']", 2, "base is a text or a number"),
        ("jobs = true", 2, "jobs is a text or a number, not True"),
        ("jobs = 0", 2, "invalid value for '-j' / '--jobs'"),
        ("keep-private = 'yes'", 2, "keep-private is true or false, not 'yes'"),
        ("tiers = { a = 'mask' }", 2, "tiers is one value, not a table"),
        ("[tasks]\na = { path = 'x' }", 2, "tasks is a text or a number"),
        ("evaluators = 'x'", 2, "evaluators is a table of names"),
        ("[evaluators.val]\nkey = 'x'", 2, "evaluator 'val' has no command"),
        ("[evaluators.val]\ncommand = 'x'\nkeys = 'x'", 2, "has an unknown key 'keys'"),
        ("base = ", 1, "it is not TOML"),
        ("base = " + "[" * 100_000, 1, "it is not TOML"),
        ("tasks = [" + "'a'," * 20_000 + "]", 1, "more than 10,000 values"),
        ("#" * (defaults.MAX_BYTES + 1), 1, "it is larger than 1 MB"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(
    said: str, status: int, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taskstore.toml").write_text(said)
    done = run("info", "store")
    assert (done.exit_code, done.stdout) == (status, "")
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert why in done.stderr
    if "invalid value" not in why:
        assert done.stderr.startswith("error: taskstore.toml: ")
    assert run("--help").exit_code == 0


@pytest.mark.parametrize(
    ("said", "typed", "dropped", "tier"),
    [
        ("lambda = 0.4", ["--tiers", "exact"], "--lambda", "exact"),
        ("level = 'archive'", ["--tiers", "rest"], "--level", "rest"),
        ("tiers = 'exact'", ["--lambda", "0.4"], "--tiers", "mask"),
    ],
)
def test_what_is_typed_drops_what_the_file_says_beside_it(
    said: str, typed: list[str], dropped: str, tier: str, small: Family, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taskstore.toml").write_text(said)
    done = run("pack", small.base_path, *small.paths.values(), "-o", "family", *typed)
    assert done.exit_code == 0, done.output
    assert f"left out of taskstore.toml, beside what is typed: {dropped}" in done.stderr
    assert [t.name for t in taskstore.open("family").summary().tiers] == [tier]


def test_no_tier_at_all_is_wrong_usage(small: Family, tmp_path: Path) -> None:
    done = run("pack", small.base_path, small.paths["alpha"], "-o", tmp_path / "s", "--tiers=")
    assert done.exit_code == 2 and "--tiers names no tier" in done.stderr
